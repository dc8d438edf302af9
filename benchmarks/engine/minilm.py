"""all-MiniLM-L6-v2, 128 tokens, magnitude zeros: float32 and int8, beside the engines that people use today."""

import copy
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import deepsparse
import torch
from harness import Sides, Target, Timed, options, report, show, table, timed
from mlp import rival
from torch import Tensor, nn

import rarefy
from rarefy.recipes.demo import model_folder

INT8 = {"weights": "int8", "activations": "int8"}
OURS: dict[str, tuple[float, str | None, dict[str, str]]] = {  # sparsity, pattern, types
    "rarefy 80 %": (0.8, None, {}),
    "rarefy 90 %": (0.9, None, {}),
    "rarefy int8 dense": (0.0, None, INT8),
    "rarefy int8 80 %": (0.8, None, INT8),
    "rarefy int8 90 %": (0.9, None, INT8),
    "rarefy int8 80 %, 4x1 blocks": (0.8, "block:4x1", INT8),
}
THEIRS = ("torch.compile", "onnxruntime", "openvino", "onnxruntime-int8", "openvino-int8")


class Hidden(nn.Module):
    """Positional arguments and one tensor out, attention in single operations: what the older exporter takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model.set_attn_implementation("eager")

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return out


def pruned(model: nn.Module, sparsity: float, pattern: str | None) -> nn.Module:
    net = copy.deepcopy(model)
    if sparsity:
        more = {} if pattern is None else {"pattern": pattern}
        rarefy.prune(net, "magnitude", sparsity=sparsity, allocation="uniform", measure=False, **more)
    return net


def measured(model: nn.Module, batch: int, quick: bool) -> tuple[Timed, dict[str, str], dict[str, Any]]:
    """Times of every side, who is missing, and what compiling took."""
    ids = torch.randint(1000, 20000, (batch, 128), generator=torch.Generator().manual_seed(0))
    x = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    sides, said = Sides(), {}
    with tempfile.TemporaryDirectory() as scratch:
        sides.here("torch", lambda: partial(model, **x))
        for name in THEIRS:
            sides.here(name, lambda name=name: rival(name, model, x))
        for name, (sparsity, pattern, types) in OURS.items():
            began = time.perf_counter()
            fast = rarefy.compile(pruned(model, sparsity, pattern), x, **types)
            said[name] = time.perf_counter() - began
            sides.here(name, lambda fast=fast: partial(fast, **x))
        for s in (0.8, 0.9):
            net = Hidden(pruned(model, s, None)).eval()
            deepsparse.add(sides, f"deepsparse {s:.0%}", net, [ids, x["attention_mask"]], Path(scratch))
        show({"batch": batch, "sides": list(sides.turns), "compile_s": said})
        got = timed(sides, 3 if quick else 13, 0.1 if quick else 0.2)
        sides.close()
    return got, sides.missing, said


def main() -> None:
    from transformers import AutoModel

    asked = options(__doc__)
    model = AutoModel.from_pretrained(model_folder(), attn_implementation="sdpa").eval()
    times: dict[int, Timed] = {}
    missing: dict[str, str] = {}
    compile_s: dict[str, float] = {}
    for batch in (1, 16):
        times[batch], left, said = measured(model, batch, asked.quick)
        missing |= left
        compile_s = {name: max(s, compile_s.get(name, 0.0)) for name, s in said.items()}
    names = list(dict.fromkeys([*times[1].rounds, *times[16].rounds]))
    rows = [
        [name, *(f(t, name) if name in t.rounds else "-" for t in times.values() for f in (Timed.ms, _against_torch))]
        for name in names
    ]
    head = ["", "1x128 ms", "x torch eager", "16x128 ms", "x torch eager"]
    slowest = max(compile_s, key=compile_s.__getitem__)
    body = f"{table(head, rows)}\n\nCompiling took {compile_s[slowest]:.1f} s at most ({slowest})."
    targets = [
        _target(times[16], "16x128, 80 % zeros, times torch eager", 2.7, "rarefy 80 %", "torch"),
        _target(times[16], "16x128, 80 % zeros, times DeepSparse", 1.3, "rarefy 80 %", "deepsparse 80%"),
        _target(times[16], "16x128, 90 % zeros, times torch eager", 3.5, "rarefy 90 %", "torch"),
        _target(times[1], "1x128, 80 % zeros, times torch eager", 2.3, "rarefy 80 %", "torch"),
    ]
    for batch in (1, 16):
        for name, wanted in (
            ("rarefy int8 80 %, 4x1 blocks", 1.5),
            ("rarefy int8 80 %", 1.0),
            ("rarefy int8 90 %", 1.0),
            ("rarefy int8 dense", 1.0),
        ):
            text = f"{batch}x128, {name}, times OpenVINO's dense int8"
            targets.append(_target(times[batch], text, wanted, name, "openvino-int8"))
    targets.append(Target("compile time, 30 s over seconds taken", 1.0, 30 / compile_s[slowest]))
    report(
        "minilm",
        "all-MiniLM-L6-v2, 128 tokens",
        body,
        targets,
        missing,
        asked,
        {f"{b}x128": t for b, t in times.items()},
    )


def _against_torch(times: Timed, name: str) -> float:
    return times.ratio(name, "torch")


def _target(times: Timed, text: str, wanted: float, name: str, against: str) -> Target:
    there = name in times.rounds and against in times.rounds
    return Target(text, wanted, times.ratio(name, against) if there else None)


if __name__ == "__main__":
    main()
