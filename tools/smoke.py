"""An installed rarefy, used once: prune, save, load, compile, outputs compared. For wheels in clean environments.

Prints one line: versions, which kernels there are, and what was compared. `--native yes` fails where the native module
is missing, `--native no` where it is there.
"""

import argparse
import platform
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

import rarefy
from rarefy.ops import native


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128)).eval()


def require(holds: bool, what: str) -> None:
    """An assertion that `python -O` keeps."""
    if not holds:
        raise SystemExit(f"smoke: {what}")


def use(folder: Path) -> str:
    """Every step, with what it must give; returns which kernels computed."""
    require(
        "_rarefy_transformers" in sys.modules, "transformers is not watched for: rarefy_transformers.pth is missing"
    )
    model, x = net(), torch.randn(32, 128)
    report = rarefy.prune(model, "wanda", sparsity=0.9, data=[x])
    zeros = [float((layer.weight == 0).float().mean()) for layer in (model[0], model[2])]
    require(abs(report.sparsity - 0.9) < 0.01 and all(abs(z - 0.9) < 0.01 for z in zeros), f"zeros: {zeros}")
    rarefy.save(model, folder / "model.safetensors")
    again = rarefy.load(folder / "model.safetensors", model=net())
    require(all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)), "the file")
    with torch.no_grad():
        want = model(x)
        fast = rarefy.compile(again, x, measure=False)
        require(torch.allclose(fast(x), want, rtol=1e-4, atol=1e-5), "the compiled model computes something else")
        eight = rarefy.compile(again, x, weights="int8", activations="int8", measure=False)
        away = float((eight(x) - want).norm() / want.norm())
    require(away < 0.05, f"8 bits are {away} away")
    return ", ".join(sorted({row.kernel for row in fast.explain().rows}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--native", choices=("yes", "no"))
    wanted = parser.parse_args().native
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", RuntimeWarning)  # of the missing kernels: the line below says it
        there = native.available()
        require(wanted is None or there == (wanted == "yes"), f"native kernels: {native.why_not() or 'they are there'}")
        used = use(Path(folder))
    isa = native.features()["isa"]
    print(
        f"smoke: python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, {isa=!s}: {used}"
    )


if __name__ == "__main__":
    main()
