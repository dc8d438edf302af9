"""MiniLM, 16 x 128 tokens: the batch through every layer together, or each thread with some sequences to itself."""

import importlib
from functools import partial
from typing import Any

import torch
from harness import Sides, Timed, options, report, table, timed
from minilm import INT8, pruned
from torch import nn

import rarefy
from rarefy.recipes.demo import model_folder

MODELS: dict[str, tuple[float, str | None, dict[str, str]]] = {  # sparsity, pattern, types
    "fp32, 80 % zeros": (0.8, None, {}),
    "fp32, 90 % zeros": (0.9, None, {}),
    "int8, dense": (0.0, None, INT8),
    "int8, 80 % zeros": (0.8, None, INT8),
    "int8, 80 % in 4x1 blocks": (0.8, "block:4x1", INT8),
}
WAYS = {
    "together": "graph",
    "1 at a time": "graph, 1 at a time on each thread",
    "2 at a time": "graph, 2 at a time on each thread",
    "4 at a time": "graph, 4 at a time on each thread",
}
_UNTIMED = {"source_ms": None, "compiled_ms": None, "speedup": None, "origin": "not timed"}


def compiled(model: nn.Module, x: dict[str, torch.Tensor], way: str, types: dict[str, str]) -> nn.Module:
    """Compiled as usual, but for the choice of the variant."""
    place: Any = importlib.import_module("rarefy.engine.fastest")
    choose = place.choose
    place.choose = lambda names, key, measure: (way, _UNTIMED)
    try:
        return rarefy.compile(model, x, **types)  # type: ignore[arg-type]
    finally:
        place.choose = choose


def main() -> None:
    from transformers import AutoModel

    asked = options(__doc__)
    model = AutoModel.from_pretrained(model_folder(), attn_implementation="sdpa").eval()
    ids = torch.randint(1000, 20000, (16, 128), generator=torch.Generator().manual_seed(0))
    x = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    times: dict[str, Timed] = {}
    missing: dict[str, str] = {}
    for name, (sparsity, pattern, types) in MODELS.items():
        sides = Sides()
        net = pruned(model, sparsity, pattern)
        for label, way in WAYS.items():
            sides.here(label, lambda net=net, way=way, types=types: partial(compiled(net, x, way, types), **x))
        times[name] = timed(sides, 3 if asked.quick else 9, 0.1 if asked.quick else 0.3)
        missing |= {f"{name}, {side}": why for side, why in sides.missing.items()}
    rows = [
        [name, *(t.ms(label) for label in WAYS), t.ratio(t.best(list(WAYS)), "together")] for name, t in times.items()
    ]
    body = table(["ms", *WAYS, "best over together"], rows)
    title = "Sequences apart: all-MiniLM-L6-v2, 16 x 128 tokens"
    report("apart", title, body, [], missing, asked, times)


if __name__ == "__main__":
    main()
