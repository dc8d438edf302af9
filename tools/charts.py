"""Draws the charts of docs/engine-charts.md from the committed tables; with --check, fails if one is stale.

Usage: python tools/charts.py [--check]
"""

import sys
from collections.abc import Iterable, Iterator

from chart import Chart, Points, svg
from tables import ROOT, figure, number

FOLDER = ROOT / "docs" / "img"
KERNELS, MLP = "benchmarks/kernels/results.md", "benchmarks/engine/results/mlp-vnni.md"
SYSTEMS, SELECTED = "benchmarks/engine/systems.md", "benchmarks/engine/results/decode_selected-vnni.md"
STEPS = "benchmarks/training/speed-methods.md"
ZEROS = (50, 70, 80, 90, 95)


def _points(table: str, selector: str, zeros: Iterable[int] = ZEROS) -> Points:
    """(zeros, figure) by a selector with {} where the per cent of zeros stand."""
    return [(z, number(figure(table, selector.format(z)))) for z in zeros]


def _kernels() -> Iterator[Chart]:
    for layer in ("3072x768", "384x384"):
        lines = {
            f"{n} token{'s' * (n > 1)}": _points(KERNELS, f"{layer} > zeros={{}}% > tokens={n} > ratio")
            for n in (1, 16, 128, 2048)
        }
        says = f"How many times faster the sparse product of a {layer} layer is than torch's dense one, by zeros."
        yield Chart(f"crossover-{layer}", f"{layer}, times torch dense", "times dense", lines, says, even=1.0)
    for tokens in (1, 128):
        where = f"3072x768 > zeros={{}}% > tokens={tokens} > "
        lines = {
            "rarefy": _points(KERNELS, where + "ours"),
            "torch dense": _points(KERNELS, where + "torch dense"),
            "torch CSR": _points(KERNELS, where + "torch csr"),
            "plain loop": _points(KERNELS, where + "plain loop"),
        }
        title = f"3072x768, {tokens} token{'s' * (tokens > 1)}, float32"
        says = (
            f"Milliseconds of one product with {tokens} tokens by zeros: rarefy, torch dense, torch CSR, a plain loop."
        )
        yield Chart(f"formats-{tokens}", title, "ms", lines, says)


def _mlp() -> Iterator[Chart]:
    dense = ("torch ms", "torch.compile ms", "onnxruntime ms", "openvino ms")
    for batch in (1, 16, 128):
        best = [(z, min(number(figure(MLP, f"batch={batch} > zeros={z}% > {name}")) for name in dense)) for z in ZEROS]
        lines = {
            "rarefy": _points(MLP, f"batch={batch} > zeros={{}}% > rarefy ms"),
            "DeepSparse": _points(MLP, f"batch={batch} > zeros={{}}% > DeepSparse ms"),
            "best dense engine": best,
        }
        says = f"Milliseconds of the perceptron at batch {batch} by zeros: rarefy, DeepSparse, the best dense engine."
        yield Chart(f"mlp-{batch}", f"MLP 768-3072-768-3072-768, batch {batch}", "ms", lines, says)


def _others() -> Iterator[Chart]:
    conv = "fast-sparse-convnets:: {}% > "
    lines = {
        "scattered": _points(SYSTEMS, conv + "dense / block 1"),
        "blocks of 4 outputs": _points(SYSTEMS, conv + "dense / block 4"),
    }
    says = (
        "How many times faster a sparse 1x1 convolution is than torch's dense one, by zeros, scattered and in blocks."
    )
    yield Chart("crossover-conv", "1x1 convolution, 512-512, 14x14", "times dense", lines, says, even=1.0)
    eight = "intel-sparse-vnni:: {}% > "
    lines = {
        "4x1 blocks": _points(SYSTEMS, eight + "4x1 blocks", (0, 70, 80, 90)),
        "oneDNN dense": _points(SYSTEMS, eight + "oneDNN int8 ms", (0, 70, 80, 90)),
    }
    says = "Milliseconds of an 8-bit product of 1024 x 1024 with 128 tokens by zeros: blocks of 4x1 and oneDNN dense."
    yield Chart("crossover-int8", "1024x1024, 128 tokens, 8 bits", "ms", lines, says)
    lines = {
        kind: [(0, 1.0), *_points(SELECTED, f"{kind} > side={kind} {{}} % of inputs out > times the first", (50, 65))]
        for kind in ("fp32", "bf16", "int8", "int4")
    }
    says = (
        "How many times faster a token of a 298 M-parameter Llama is where inputs of each layer are left out, by type."
    )
    out = "inputs left out, %"
    yield Chart("crossover-inputs", "A token, inputs left out", "times dense", lines, says, x=out, even=1.0)
    lines = {
        "RigL, kept weights": _points(STEPS, "{}%:: rigl, packed > times as fast as dense", (80, 90, 95, 98)),
        "RigL, masks": _points(STEPS, "{}%:: rigl > times as fast as dense", (80, 90, 95, 98)),
        "Top-KAST, masks": _points(STEPS, "{}%:: top-kast > times as fast as dense", (80, 90, 95, 98)),
    }
    says = "How many times faster a training step is than dense, by zeros: on the kept weights only, and with masks."
    yield Chart("crossover-training", "A training step, times dense", "times dense", lines, says, even=1.0)


def charts() -> list[Chart]:
    return [*_kernels(), *_mlp(), *_others()]


def main(arguments: list[str]) -> int:
    stale = []
    for chart in charts():
        path, text = FOLDER / f"{chart.name}.svg", svg(chart)
        if "--check" not in arguments:
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            stale.append(path.name)
    if stale:
        print(f"docs/img: {', '.join(stale)} differ from their tables: run `make index`", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
