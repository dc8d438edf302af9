"""Bits and zeros together on a real language model: bits per byte, and bytes of the saved file.

    python benchmarks/pruning/joint.py SHARED_DATA_FOLDER [--budgets]

Writes joint.json beside itself, one cell after the other (cells that are there are not run again), and joint.md.
Model: llama-4m-bytes, all linear layers of its blocks; 64 calibration windows of 256 bytes from the beginning of SciFact,
80 unseen ones from its last 5 %.
"""

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
from rarefy.recipes.size_budget import prune_to_size, saved_bytes

HERE = Path(__file__).parent
DATA = Path(sys.argv[1])
WINDOW, EVALUATION, CALIBRATION = 256, 80, 64
SPECS = {"int8": QuantizeSpec(8), "int4, row": QuantizeSpec(4), "int4, 16": QuantizeSpec(4, 16)}
BUDGETS = (0.20, 0.15, 0.12, 0.10)


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
    for sparsity in (0.0, 0.5):
        if sparsity:
            found[f"fp32, {sparsity:.0%}"] = lambda s=sparsity: pruned("sparsegpt", sparsity=s)
        for name, spec in SPECS.items():
            plain = QuantizeSpec(spec.bits, spec.group, "nearest")
            shown = f"{sparsity:.0%} {name}"
            found[f"{shown}, nearest"] = lambda s=sparsity, q=plain: pruned("sparsegpt", sparsity=s, quantize=q)
            found[f"{shown}, joint"] = lambda s=sparsity, q=spec: pruned("sparsegpt", sparsity=s, quantize=q)
    int4 = SPECS["int4, 16"]
    found["2:4 int4, 16, joint"] = lambda: pruned("sparsegpt", pattern="2:4", quantize=int4)
    found["50% int4, 16, AWP"] = lambda: pruned("awp-pgd", sparsity=0.5, quantize=int4)
    bare = {"sparsity": 0.5, "passes": 0, "tuning": 0}
    found["gqsa 50%, no training, power 1"] = lambda: pruned("gqsa", **bare, power=1.0)
    found["gqsa 50%, no training, power 2"] = lambda: pruned("gqsa", **bare, power=2.0)
    found["gqsa 50%, first stage"] = lambda: pruned("gqsa", sparsity=0.5, tuning=0)
    found["gqsa 50%, both stages, outputs"] = lambda: pruned("gqsa", sparsity=0.5)
    found["gqsa 50%, both stages, loss"] = lambda: pruned("gqsa", sparsity=0.5, loss=loss_of)
    return found


def budget_cells() -> dict[str, Callable[[], dict[str, Any]]]:
    """The joint search, and every uniform choice of bits with as few zeros as the budget allows."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for share in BUDGETS:
        bytes_ = int(share * saved_bytes(load()))
        found[f"budget {share:.0%}, joint search"] = lambda b=bytes_: searched(b)
        for name, spec in SPECS.items():
            found[f"budget {share:.0%}, uniform {name}"] = lambda b=bytes_, q=spec: uniform(b, q)
    return found


def searched(allowed: int) -> dict[str, Any]:
    model, started = load(), time.perf_counter()
    report = prune_to_size(model, "sparsegpt", allowed, data=BATCHES, ignore=["lm_head"])
    seconds = time.perf_counter() - started
    bits = [choice["bits"] for choice in report.budget["choices"].values()]
    mean = sum(bits) / len(bits)
    found = {"bits_per_byte": bits_per_byte(model), "bytes": saved_bytes(model), "seconds": round(seconds, 1)}
    return {**found, "allowed": allowed, "mean_bits": mean, "sparsity": report.sparsity}


def uniform(allowed: int, spec: QuantizeSpec) -> dict[str, Any]:
    """One sparsity for all layers, found by bisection on the bytes that come out of rounding to nearest by magnitude,
    then by small steps on what the method itself gives."""
    plain = QuantizeSpec(spec.bits, spec.group, "nearest")

    def size(sparsity: float) -> int:
        model = load()
        rarefy.prune(
            model, "magnitude", sparsity=sparsity, data=BATCHES, ignore=["lm_head"], quantize=plain, measure=False
        )
        return saved_bytes(model)

    low, high = 0.0, 0.95
    if size(low) <= allowed:
        high = low
    for _ in range(8 if high else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if size(middle) <= allowed else (middle, high)
    while True:
        found = pruned("sparsegpt", sparsity=high, quantize=spec)
        if found["bytes"] <= allowed:
            return {**found, "allowed": allowed, "mean_bits": float(spec.bits), "sparsity": high}
        high += 0.004


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
