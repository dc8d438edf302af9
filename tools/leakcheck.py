"""Leak check of the native objects: packs and frees many weights, then demands that nothing is left.

Run by `make check`. Fails (exit status 1) when the native module still counts objects, when the process has grown, or
when nanobind reports a leak while the interpreter shuts down.
"""

import contextlib
import gc
import resource
import subprocess
import sys

ROUNDS, WARM = 600, 150
ALLOWED_GROWTH = 8 << 20  # bytes; one packed weight below is about 1.5 MB


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def first_accepted(weights: list, kernel: str):
    """The first of the weights that the kernel can hold. Raises ValueError where it holds none."""
    from rarefy import ops

    for weight in weights[:-1]:
        with contextlib.suppress(ValueError):
            ops.pack(weight, kernel)
            return weight
    ops.pack(weights[-1], kernel)
    return weights[-1]


def conv_round(kernels: list, weight, step: int) -> None:
    """Packs a convolution weight for one of the kernels and convolves."""
    import torch

    from rarefy.ops import conv8, pack_conv
    from rarefy.ops.words import words_of

    name, x = kernels[step % len(kernels)].name, torch.randn(1, weight.shape[1], 12, 12)
    if conv8.is_conv8(name):
        conv8.pack_conv8(weight, kernel=name).convolve(words_of(x))
    else:
        packed = pack_conv(weight, kernel=name)
        torch.ops.rarefy.packed_conv2d(x, packed.handle, None, None, "relu")


def child() -> None:
    import torch

    from rarefy import ops
    from rarefy.core.quantized import quantize_weight
    from rarefy.ops import native
    from rarefy.patterns.grouped_nm import all_ways

    module = native.module()
    if module is None:
        sys.exit(f"leak check: {native.why_not()}")
    module.set_leak_warnings(True)
    # Two weights of every four stay, in all ways by turns: a pattern that every layout can hold.
    weight, x = torch.rand(512, 480).add(0.5) * all_ways(2, 4).reshape(-1).repeat(20), torch.randn(32, 480)
    stored = [weight, quantize_weight(weight), *(quantize_weight(weight, bits=4, group=g) for g in (16, 32))]
    filters, convs = torch.randn(64, 32, 3, 3), [*ops.conv_kernels.kernels(), *ops.conv8.kernels()]
    pairs = [(kernel.name, first_accepted(stored, kernel.name)) for kernel in ops.kernels()]
    before = 0
    for step in range(ROUNDS):
        if step == WARM:
            before = resident()
        name, accepted = pairs[step % len(pairs)]
        packed = ops.pack(accepted, name)
        torch.ops.rarefy.packed_linear(x, packed.handle, None, "gelu", 512)
        conv_round(convs, filters, step)
        with contextlib.suppress(KeyError):
            ops.pack(weight, name + "-unknown")
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
