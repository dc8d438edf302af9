"""What 8 bits cost all-MiniLM-L6-v2: its embeddings beside those of float32, and STS-B, ours and OpenVINO's.

    python benchmarks/engine/quality8.py --stsb FOLDER

FOLDER holds stsb-en-train.csv (calibration) and stsb-en-dev.csv. Both engines calibrate on the same batches.
"""

import argparse
import copy
import csv
import random
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

import rarefy
from rarefy import ops
from rarefy.engine.rivals.openvino import OpenVinoInt8
from rarefy.engine.rivals.outputs import Positional
from rarefy.recipes.demo import model_folder
from rarefy.recipes.encoder import TextModel, load_text_model

ROWS, CALIBRATION = 16, 16  # sentences of a batch; batches
INT8 = {"weights": "int8", "activations": "int8"}
Pair = tuple[str, str, float]
Run = Callable[..., Any]


def pairs(path: Path) -> list[Pair]:
    """(one sentence, another, how alike people find them: 0 to 5)"""
    with path.open(encoding="utf-8") as file:
        return [(a, b, float(score)) for a, b, score in csv.reader(file)]


def openvino(model: nn.Module, data: Sequence[dict[str, Tensor]]) -> Run:
    """OpenVINO with int8 by NNCF's post-training quantisation, of any batch and length; the rest in float32."""
    import nncf
    import openvino as ov

    with torch.no_grad():
        converted = ov.convert_model(Positional(model, data[-1]), example_input=tuple(data[-1].values()))
    seen = nncf.Dataset(data, lambda given: [tensor.numpy() for tensor in given.values()])
    quantised = nncf.quantize(converted, seen, subset_size=len(data), model_type=nncf.ModelType.TRANSFORMER)
    compiled = ov.Core().compile_model(quantised, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda **given: torch.from_numpy(compiled([tensor.numpy() for tensor in given.values()])[0])


def sides(model: nn.Module, data: list[dict[str, Tensor]]) -> dict[str, Run]:
    """What is compared, float32 first."""
    dynamic = rarefy.compile(model, data[-1], **INT8)
    static = rarefy.compile(model, data[-1], data=data, **INT8)
    made: dict[str, Run] = {"float32": model, "rarefy int8, scales of tokens": dynamic}
    made["rarefy int8, static scales"] = static
    kernels = [row.kernel for row in static.explain().rows]
    print(f"{len(kernels) - kernels.count('dense')} of {len(kernels)} layers in int8", flush=True)
    if (why := OpenVinoInt8().available()) is None:
        made["OpenVINO int8 (NNCF)"] = openvino(model, data)
    else:
        print(f"OpenVINO: {why}")
    return made


def rows(text: TextModel, model: nn.Module, data: list[dict[str, Tensor]], dev: Sequence[Pair]) -> list[str]:
    """A line of the table a side: mean and least cosine to float32's embeddings, Spearman's correlation on STS-B."""
    lines, sentences = [], [s for a, b, _ in dev for s in (a, b)]
    exact: Tensor | None = None
    for name, run in sides(model, data).items():
        vectors = text.embed(sentences, run, ROWS)
        exact = vectors if exact is None else exact
        cosine = cosine_similarity(vectors, exact)
        alike = cosine_similarity(vectors[::2], vectors[1::2])
        rank = spearmanr(alike.numpy(), [score for *_, score in dev]).statistic
        lines.append(f"| {name} | {float(cosine.mean()):.5f} | {float(cosine.min()):.4f} | {rank:.4f} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stsb", type=Path, required=True, help="folder of stsb-en-train.csv and stsb-en-dev.csv")
    parser.add_argument("--pairs", type=int, default=1500, help="of the development set")
    parser.add_argument("--write", type=Path, help="Markdown file for the table")
    asked = parser.parse_args()
    text = load_text_model(model_folder())
    seen = [s for a, b, _ in pairs(asked.stsb / "stsb-en-train.csv") for s in (a, b)]
    random.Random(0).shuffle(seen)
    data = text.batches(seen[: ROWS * CALIBRATION], ROWS)
    dev = pairs(asked.stsb / "stsb-en-dev.csv")[: asked.pairs]
    sparse = copy.deepcopy(text.model)
    rarefy.prune(sparse, "magnitude", sparsity=0.8, pattern="block:4x1", allocation="uniform", measure=False)
    head = "| side | mean cosine to float32 | least | STS-B Spearman |\n|---|---|---|---|"
    isa = ops.native.features()["isa"]
    said = [
        "# What 8 bits cost all-MiniLM-L6-v2",
        "",
        f"{date.today()}, {isa}. {len(dev)} pairs of STS-B's development set;",
    ]
    said[-1] += f" calibrated on {CALIBRATION} batches of {ROWS} other sentences."
    for title, model in (("Dense", text.model), ("80 % zeros in blocks of 4x1 (by magnitude, not retrained)", sparse)):
        said += ["", f"## {title}", "", head, *rows(text, model, data, dev)]
    if asked.write is not None:
        asked.write.write_text("\n".join(said) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
