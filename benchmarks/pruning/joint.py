"""Bits and zeros together on a real language model: bits per byte, and bytes of the saved file.

    python benchmarks/pruning/joint.py SHARED_DATA_FOLDER [--budgets]

Writes joint.json beside itself, one cell after the other (cells that are there are not run again), and joint.md.
Model: llama-4m-bytes, all linear layers of its blocks; 64 calibration windows of 256 bytes from the beginning of
SciFact, 80 unseen ones from its last 5 %.
"""

import functools
import itertools
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import rarefy
from rarefy import QuantizeSpec
from rarefy.core.site import find_sites
from rarefy.pruning.resolve import resolve_method
from rarefy.recipes.size_budget import Choice, layer_choices, prune_to_size, saved_bytes

HERE = Path(__file__).parent
DATA = Path(sys.argv[1])
WINDOW, EVALUATION, CALIBRATION = 256, 80, 64
SPECS = {"int8": QuantizeSpec(8), "int4, row": QuantizeSpec(4), "int4, 16": QuantizeSpec(4, 16)}
BUDGETS = (0.11, 0.15)


def windows() -> tuple[Tensor, Tensor]:
    lines = [json.loads(line) for line in (DATA / "scifact" / "corpus.jsonl").read_text("utf-8").splitlines()]
    raw = "\n".join(f"{row['title']}\n{row['text']}" for row in lines).encode()
    cut = int(len(raw) * 0.95)
    seen = torch.frombuffer(bytearray(raw[: CALIBRATION * WINDOW]), dtype=torch.uint8).long()
    unseen = torch.frombuffer(bytearray(raw[cut : cut + EVALUATION * WINDOW]), dtype=torch.uint8).long()
    return seen.view(-1, WINDOW), unseen.view(-1, WINDOW)


SEEN, UNSEEN = windows()
BATCHES = [{"input_ids": rows} for rows in SEEN.split(16)]


def load() -> nn.Module:
    model: nn.Module = transformers.LlamaForCausalLM.from_pretrained(DATA / "weights" / "llama-4m-bytes").eval()
    return model


def loss_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    ids = batch["input_ids"]
    return F.cross_entropy(model(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@torch.inference_mode()
def bits_per_byte(model: nn.Module) -> float:
    losses = [float(loss_of(model, {"input_ids": rows})) for rows in UNSEEN.split(16)]
    return sum(losses) / len(losses) / math.log(2)


def pruned(method: str, **options: Any) -> dict[str, Any]:
    model, started = load(), time.perf_counter()
    if method != "nothing":
        rarefy.prune(model, method, data=BATCHES, ignore=["lm_head"], measure=False, **options)
    seconds = time.perf_counter() - started
    return {"bits_per_byte": bits_per_byte(model), "bytes": saved_bytes(model), "seconds": round(seconds, 1)}


def cells() -> dict[str, Callable[[], dict[str, Any]]]:
    """Name of each cell -> what makes it."""
    found: dict[str, Callable[[], dict[str, Any]]] = {"fp32, dense": lambda: pruned("nothing")}
    found["fp32, 50%"] = lambda: pruned("sparsegpt", sparsity=0.5)
    for sparsity, name in ((0.0, "int8"), (0.5, "int8"), (0.0, "int4, 16"), (0.5, "int4, 16"), (0.5, "int4, row")):
        spec = SPECS[name]
        plain, shown = QuantizeSpec(spec.bits, spec.group, "nearest"), f"{sparsity:.0%} {name}"
        found[f"{shown}, nearest"] = lambda s=sparsity, q=plain: pruned("sparsegpt", sparsity=s, quantize=q)
        found[f"{shown}, joint"] = lambda s=sparsity, q=spec: pruned("sparsegpt", sparsity=s, quantize=q)
    bare = {"sparsity": 0.5, "passes": 0, "tuning": 0}
    trained = {"sparsity": 0.5, "passes": 4}
    found["gqsa 50%, no training"] = lambda: pruned("gqsa", **bare)
    found["gqsa 50%, both stages"] = lambda: pruned("gqsa", **trained)
    found["2:4 int4, 16, joint"] = lambda: pruned("sparsegpt", pattern="2:4", quantize=SPECS["int4, 16"])
    return found


def budget_cells() -> dict[str, Callable[[], dict[str, Any]]]:
    """The joint search, and every uniform choice of bits with as few zeros as the budget allows."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    late = {
        "50% int4, 16, AWP": lambda: pruned("awp-pgd", sparsity=0.5, quantize=SPECS["int4, 16"]),
        "gqsa 50%, no training, power 2": lambda: pruned("gqsa", sparsity=0.5, passes=0, tuning=0, power=2.0),
        "gqsa 50%, first stage alone": lambda: pruned("gqsa", sparsity=0.5, passes=4, tuning=0),
        "gqsa 50%, both stages, by the loss": lambda: pruned("gqsa", sparsity=0.5, passes=4, loss=loss_of),
    }
    for share in BUDGETS:
        bytes_ = int(share * saved_bytes(load()))
        found[f"budget {share:.0%}, joint search"] = lambda b=bytes_: searched(b)
        for name, spec in SPECS.items():
            found[f"budget {share:.0%}, uniform {name}"] = lambda b=bytes_, q=spec: uniform(b, q)
    return found | late


def searched(allowed: int) -> dict[str, Any]:
    model, started = load(), time.perf_counter()
    report = prune_to_size(model, "sparsegpt", allowed, data=BATCHES, ignore=["lm_head"], choices=choices())
    seconds = time.perf_counter() - started
    bits = [choice["bits"] for choice in report.budget["choices"].values()]
    mean = sum(bits) / len(bits)
    found = {"bits_per_byte": bits_per_byte(model), "bytes": saved_bytes(model), "seconds": round(seconds, 1)}
    return {**found, "allowed": allowed, "mean_bits": mean, "sparsity": report.sparsity}


def uniform(allowed: int, spec: QuantizeSpec) -> dict[str, Any]:
    """One sparsity for all layers: foreseen from the bytes of the search's own choices, then raised until it fits."""
    model = load()
    known = choices()
    layers = {name: [c for c in found if c.spec == spec] for name, found in known.items()}
    rest = saved_bytes(model) - sum(found[0].bytes for found in known.values())
    points = sorted({c.density: 0 for found in layers.values() for c in found})
    total = {d: rest + sum(c.bytes for found in layers.values() for c in found if c.density == d) for d in points}
    at = 1.0
    for low, high in itertools.pairwise(points):
        if total[low] <= allowed < total[high]:
            at = low + (high - low) * (allowed - total[low]) / (total[high] - total[low])
    sparsity = 1.0 - at
    while True:
        found = pruned("sparsegpt", sparsity=sparsity, quantize=spec)
        if found["bytes"] <= allowed:
            return {**found, "allowed": allowed, "mean_bits": float(spec.bits), "sparsity": sparsity}
        sparsity += 0.004


@functools.cache
def choices() -> dict[str, list[Choice]]:
    """What the search may choose from, for all budgets."""
    model, (_, method) = load(), resolve_method("sparsegpt", {})
    sites, _ = find_sites(model, ["lm_head"])
    return layer_choices(model, method, method.pattern, sites, BATCHES)


def page(done: dict[str, dict[str, Any]]) -> str:
    whole = done["fp32, dense"]["bytes"]
    text = f"# Bits and zeros together\n\n{__doc__.split('Model: ')[1].strip()}\n"
    text += f"bits per byte: less is better; file: of `rarefy.save`, over {whole} bytes of the dense float32 model.\n\n"
    text += "| what | bits per byte | file |\n|---|---|---|\n"
    for name, cell in done.items():
        if not name.startswith("budget"):
            text += f"| {name} | {cell['bits_per_byte']:.4f} | {cell['bytes'] / whole:.1%} |\n"
    rows = {name: cell for name, cell in done.items() if name.startswith("budget")}
    if rows:
        text += "\n## A budget in bytes\n\n| what | bits per byte | file | mean bits | zeros |\n|---|---|---|---|---|\n"
    for name, cell in rows.items():
        text += f"| {name} | {cell['bits_per_byte']:.4f} | {cell['bytes'] / whole:.2%} | {cell['mean_bits']:.1f} "
        text += f"| {cell['sparsity']:.1%} |\n"
    return text


def main() -> None:
    store = HERE / "joint.json"
    done = json.loads(store.read_text()) if store.exists() else {}
    wanted = cells() | (budget_cells() if "--budgets" in sys.argv else {})
    for name, make in wanted.items():
        if name not in done:
            done[name] = make()
            print(name, done[name], flush=True)
            store.write_text(json.dumps(done, indent=1) + "\n")
            (HERE / "joint.md").write_text(page({n: done[n] for n in wanted if n in done}))


if __name__ == "__main__":
    main()
