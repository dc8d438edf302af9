"""What belongs to the whole process: environment switches, denormal state, threads, forks, the interpreter lock."""

import os
import platform
import subprocess
import sys
import threading
import time

import pytest
import torch
from oracle import assert_close, normal, sparse

from rarefy import ops
from rarefy.ops import native

needs_native = pytest.mark.skipif(not ops.available(), reason="the native module is not built")
BODY = """
import torch
from rarefy import ops
w = torch.eye(8) * 2
p = ops.pack(w)
x = torch.ones(3, 8, requires_grad=True)
y = torch.ops.rarefy.packed_linear(x, p.handle, None, "none", 8)
y.sum().backward()
assert y.eq(2).all() and x.grad.eq(2).all()
s = w.to_sparse_csr()
z = torch.ops.rarefy.csr_linear(x.detach(), s.values(), s.col_indices(), s.crow_indices(), None, 8)
assert z.eq(2).all()
print(ops.features()["isa"], p.kernel, sorted({k.isa for k in ops.kernels()}), ops.why_not())
"""


def python(body, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAREFY_")}
    return subprocess.run(
        [sys.executable, "-c", body], env=clean | environment, capture_output=True, text=True, timeout=120
    )


@needs_native
@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_the_instruction_set_can_be_capped(isa):
    done = python(BODY, RAREFY_ISA=isa)
    assert done.returncode == 0, done.stderr
    levels = ["scalar", "avx2", "avx512"]
    in_force = done.stdout.split()[0]
    assert levels.index(in_force) <= levels.index(isa)
    assert f"-{in_force}-" in done.stdout.split()[1]
    assert not any(f"'{above}'" in done.stdout for above in levels[levels.index(isa) + 1 :])


@needs_native
@pytest.mark.parametrize("cap", native.LEVELS)
def test_no_kernel_above_the_cap_is_listed(cap, monkeypatch):
    offered = native.LEVELS.index(str(ops.features()["isa"]))
    every = {kernel.isa for kernel in ops.kernels()}
    monkeypatch.setenv("RAREFY_ISA", cap)
    allowed = set(native.LEVELS[: min(offered, native.LEVELS.index(cap)) + 1])
    assert {kernel.isa for kernel in ops.kernels()} == every & allowed


@needs_native
def test_masked_bytes_expand_in_one_instruction_where_the_cpu_can():
    listed = {kernel.name: kernel.isa for kernel in ops.kernels()}
    able = ops.features()["avx512_vbmi"] and ops.features()["avx512_vbmi2"]
    wanted = {"matvec-vbmi2-bitmask-bf16", "matvec8-vbmi2-bitmask-int8", "expand8-vbmi2"}
    assert (wanted <= set(listed)) == (able and native.LEVELS.index(str(ops.features()["isa"])) >= 4)
    assert {listed[name] for name in wanted & set(listed)} <= {"vbmi2"}


@needs_native
def test_a_kernel_above_the_cap_is_refused():
    done = python(
        "from rarefy import ops; import torch; ops.pack(torch.eye(3), 'spmv-avx2-index')", RAREFY_ISA="scalar"
    )
    assert done.returncode != 0
    assert "ValueError" in done.stderr
    assert "needs avx2" in done.stderr


@needs_native
def test_an_unknown_instruction_set_is_an_error_that_lists_them():
    done = python(BODY, RAREFY_ISA="sse9")
    assert done.returncode != 0
    assert "RAREFY_ISA=sse9" in done.stderr
    assert "scalar, avx2, avx512, vnni, vbmi2 or amx" in done.stderr


def test_without_the_native_module_torch_does_it_and_says_so_once():
    done = python(BODY + "\nops.pack(w); ops.available(); ops.kernels()", RAREFY_NATIVE="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["none", "reference"]
    assert done.stderr.count("RuntimeWarning") == 1
    assert "unset it" in done.stderr


def test_a_native_kernel_is_refused_without_the_native_module():
    done = python(
        "from rarefy import ops; import torch; ops.pack(torch.eye(3), 'spmv-scalar-index')", RAREFY_NATIVE="0"
    )
    assert done.returncode != 0
    assert "EngineError" in done.stderr


def test_hostile_indices_are_refused_without_the_native_module_too():
    body = """
import torch
from rarefy import ops
for c, o in (([0, 9], [0, 1, 2]), ([0, -1], [0, 1, 2]), ([0, 1], [0, 3, 2]), ([0, 1], [0, 1, 1])):
    try:
        torch.ops.rarefy.csr_linear(torch.ones(1, 3), torch.ones(2), torch.tensor(c), torch.tensor(o), None, 2)
    except ValueError:
        continue
    raise SystemExit(f"accepted {c} {o}")
"""
    done = python(body, RAREFY_NATIVE="0")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_native
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_denormal_state_of_the_caller_is_restored(threads):
    torch.set_num_threads(threads)
    packed = ops.pack(sparse(400, 300, 0.3))
    module = native.module()
    bits = 1 << 24 if platform.machine() in ("aarch64", "arm64") else 0x8040  # FZ; FTZ and DAZ
    for flush in (False, True):
        torch.set_flush_denormal(flush)
        before = module.floating_point_state() & bits
        packed.multiply(normal(200, 300), None, "gelu")
        after = module.floating_point_state() & bits
        torch.set_flush_denormal(False)
        assert after == before == (bits if flush else 0)


@needs_native
def test_denormal_inputs_count_as_zero():
    packed = ops.pack(torch.full((16, 16), 1e20))
    assert packed.multiply(torch.full((16, 16), 1e-40), None, "none").eq(0).all()


@needs_native
def test_torch_and_the_kernels_share_one_openmp_runtime():
    assert ops.features()["thread_pool"] == "openmp"


@needs_native
def test_python_runs_while_a_kernel_computes():
    packed, x = ops.pack(sparse(2048, 2048, 0.5)), normal(2048, 2048)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    start = time.perf_counter()
    for _ in range(3):
        packed.multiply(x, None, "none")
    end = time.perf_counter()
    stop.set()
    ticker.join()
    assert sum(start < t < end for t in ticks) >= 5


@needs_native
def test_many_python_threads_at_once():
    weight, x = sparse(300, 200, 0.3), normal(150, 200)
    packed = ops.pack(weight)
    torch.set_num_threads(2)
    results = []
    workers = [threading.Thread(target=lambda: results.append(packed.multiply(x, None, "relu"))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 8
    for result in results:
        assert_close(result, x, weight, None, "relu")


OWN_POOL = """
import ctypes, sys
from rarefy import _native
assert _native.thread_pool() == "own", _native.thread_pool()
n, k, t = 256, 200, 300
F = ctypes.c_float
w = (F * (n * k))(*[(1.0 if (i * 7) % 3 == 0 else 0.0) for i in range(n * k)])
x = (F * (t * k))(*[float(i % 5) for i in range(t * k)])
def run(threads):
    y = (F * (t * n))()
    packed = _native.Packed(ctypes.addressof(w), 0, 0, 0, 0, 0.0, 0, 0, n, k, "spmm-scalar-r2-t16-k256")
    packed.multiply(ctypes.addressof(x), t, 0, 0, ctypes.addressof(y), threads)
    return bytes(y)
one = run(1)
assert any(one)
for threads in (2, 3, 2, 5):
    assert run(threads) == one
import os
child = os.fork()
if child == 0:
    os._exit(0 if run(2) == one else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("ok")
"""


@needs_native
def test_the_own_thread_pool_works_where_no_openmp_is_loaded_and_after_a_fork():
    # The extension alone, loaded by path: neither torch nor its OpenMP runtime is in that process.
    body = f"""
import importlib.util, sys, types
spec = importlib.util.spec_from_file_location("rarefy._native", {native.module().__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
package = types.ModuleType("rarefy"); package._native = module
sys.modules["rarefy"] = package; sys.modules["rarefy._native"] = module
{OWN_POOL}"""
    done = python(body)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ok"
