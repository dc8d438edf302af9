"""Tensors that were given to compressed-tensors 0.14.0.1, whose files lie in `golden/`.

    RAREFY_PEERS=FOLDER PYTHONPATH=src:tests python -m formats.golden_cases

writes those files anew with the peer of `benchmarks/peers/install.sh compressed-tensors FOLDER`.
"""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from formats.peers import run

PEER = "compressed-tensors"
PROGRAM = Path(__file__).with_name("peer_program.py")
GOLDEN = Path(__file__).with_name("golden")
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn]
LAYOUTS = ["sparse-bitmask", "sparse-24-bitmask"]


def weights(dtype: torch.dtype) -> dict[str, Tensor]:
    """Matrices of odd sizes with 60 % zeros, a vector, and where the peer can do it a kernel of a convolution."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"m.a.weight": (64, 61), "m.b.weight": (33, 128), "m.c.weight": (5, 1), "m.d.bias": (7,)}
    if dtype != torch.float8_e4m3fn:
        shapes["m.conv.weight"] = (4, 3, 3, 3)
    made = {}
    for name, shape in shapes.items():
        value = torch.randint(1, 60, shape, generator=generator).float()
        made[name] = (value * (torch.rand(shape, generator=generator) < 0.4)).to(dtype)
    return made


def two_of_four(dtype: torch.dtype) -> dict[str, Tensor]:
    """Positive values: the peer ranks float8 by its bytes as signed integers, and -128 as the least integer."""
    generator = torch.Generator().manual_seed(1)
    made = {}
    for name, (rows, columns) in {"m.a.weight": (64, 60), "m.b.weight": (33, 128)}.items():
        order = torch.rand(rows, columns // 4, 4, generator=generator).argsort(-1)
        value = torch.randint(1, 60, (rows, columns), generator=generator)
        made[name] = (value * (order < 2).reshape(rows, columns)).to(dtype)
    return made


def given(layout: str, dtype: torch.dtype) -> dict[str, Tensor]:
    return weights(dtype) if layout == "sparse-bitmask" else two_of_four(dtype)


def scaled() -> dict[str, Tensor]:
    """Stored numbers with scales of every reach, as `NAME.weight`, `NAME.weight_scale`, `NAME.weight_zero_point`."""
    generator = torch.Generator().manual_seed(2)
    stored: dict[str, Tensor] = {}
    for dtype in (torch.int8, torch.float8_e4m3fn):
        for scale_type in (torch.float32, torch.bfloat16):
            for kind, shape in {"tensor": (1,), "row": (33, 1), "group": (33, 8), "block": (11, 4)}.items():
                name = f"{named(dtype)}-{named(scale_type)}-{kind}"
                stored[f"{name}.weight"] = weights(dtype)["m.b.weight"]
                stored[f"{name}.weight_scale"] = torch.rand(shape, generator=generator).add(0.01).to(scale_type)
                if dtype == torch.int8 and kind == "group":
                    zero = torch.randint(-5, 5, shape, generator=generator).to(torch.int8)
                    stored[f"{name}.weight_zero_point"] = zero
    return stored


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def golden(layout: str, dtype: torch.dtype) -> Path:
    return GOLDEN / f"{layout}-{named(dtype)}.safetensors"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.safetensors"
        for layout in LAYOUTS:
            for dtype in TYPES:
                save_file(given(layout, dtype), source)
                run(PEER, PROGRAM, "encode", layout, source, golden(layout, dtype))
        save_file(scaled(), source)
        run(PEER, PROGRAM, "dequantize", source, GOLDEN / "scaled.safetensors")


if __name__ == "__main__":
    main()
