"""Leak check of the native objects: packs and frees many weights, then demands that nothing is left.

Run by `make check`. Fails (exit status 1) when the native module still counts objects, when the process has grown, or
when nanobind reports a leak while the interpreter shuts down.
"""

import contextlib
import gc
import resource
import subprocess
import sys

ROUNDS, WARM = 300, 50
ALLOWED_GROWTH = 8 << 20  # bytes; one packed weight below is about 1.5 MB


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def child() -> None:
    import torch

    from rarefy import ops
    from rarefy.ops import native

    module = native.module()
    if module is None:
        sys.exit(f"leak check: {native.why_not()}")
    module.set_leak_warnings(True)
    weight, x = torch.randn(512, 512) * (torch.rand(512, 512) < 0.9), torch.randn(32, 512)
    names = [kernel.name for kernel in ops.kernels()]
    before = 0
    for step in range(ROUNDS):
        if step == WARM:
            before = resident()
        packed = ops.pack(weight, names[step % len(names)])
        torch.ops.rarefy.packed_linear(x, packed.handle, None, "gelu", 512)
        with contextlib.suppress(KeyError):
            ops.pack(weight, names[0] + "-unknown")
    del packed
    gc.collect()
    growth = resident() - before
    if module.live_objects() != 0:
        sys.exit(f"leak check: {module.live_objects()} packed weights are still alive")
    if growth > ALLOWED_GROWTH:
        sys.exit(f"leak check: the process grew by {growth / 2**20:.1f} MB in {ROUNDS - WARM} rounds")
    print(f"leak check: {ROUNDS} weights packed and freed, none alive, growth {growth / 2**20:.1f} MB")


def main() -> None:
    done = subprocess.run([sys.executable, __file__, "child"], capture_output=True, text=True)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    if done.returncode != 0 or "nanobind: leaked" in done.stderr:
        sys.exit(1)


if __name__ == "__main__":
    child() if sys.argv[1:] == ["child"] else main()
