"""A convolutional classifier with zeros, float32 and int8, beside every engine that can run it.

Random weights serve for speed. In int8 both kinds of zeros are timed: anywhere, and in blocks of four input channels of
one tap, which are the unit that the 8-bit kernels store.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import deepsparse
import torch
from harness import Sides, Target, Timed, options, report, show, table, timed
from mlp import DENSE, rival
from torch import Tensor, nn

import rarefy

BATCHES = (1, 16)
INT8 = {"weights": "int8", "activations": "int8"}
OURS, EIGHT, BLOCKS = "rarefy", "rarefy int8", "rarefy int8, blocks of 4 inputs"
THEIRS, RIVAL = "deepsparse", "openvino-int8"
Make = Callable[[int], nn.Module]  # of the number of neighbouring input channels that are zero together


class Logits(nn.Module):
    """One tensor in and one out: what the older exporter takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.model(pixel_values=pixels).logits
        return out


def thin_out(conv: nn.Conv2d, sparsity: float, block: int) -> None:
    """Random zeros; kept weights are scaled up, so that values keep their size from layer to layer."""
    out, into, high, wide = conv.weight.shape
    keep = (torch.rand(out, into // block, high, wide) >= sparsity).repeat_interleave(block, 1)
    with torch.no_grad():
        conv.weight.mul_(keep).mul_((1 - sparsity) ** -0.5)


def logits(out: Any) -> Tensor:
    found: Tensor = out if isinstance(out, Tensor) else out.logits
    return found


def _measured(make: Make, batch: int, quick: bool) -> tuple[Timed, dict[str, str], dict[str, float]]:
    """Times of every side, who is missing, and how far the 8-bit outputs are from the float ones."""
    model, blocks, sides, moved = make(1), make(4), Sides(), {}
    x = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    given = {"pixel_values": x}

    def eight(name: str, net: nn.Module, call: Callable[[], Any]) -> Callable[[], Any]:
        with torch.inference_mode():
            wanted = net(**given).logits
            moved[name] = float((logits(call()) - wanted).norm() / wanted.norm())
        return call

    with tempfile.TemporaryDirectory() as scratch:
        sides.here("torch", lambda: partial(model, **given))
        for name in DENSE[1:]:
            sides.here(name, lambda name=name: rival(name, model, given))  # type: ignore[arg-type]
        sides.here(RIVAL, lambda: eight(RIVAL, model, rival(RIVAL, model, given)))  # type: ignore[arg-type]
        sides.here(OURS, lambda: partial(rarefy.compile(model, given), **given))
        for name, net in ((EIGHT, model), (BLOCKS, blocks)):
            fast = rarefy.compile(net, given, data=[given], **INT8)  # type: ignore[arg-type]
            sides.here(name, lambda fast=fast, name=name, net=net: eight(name, net, partial(fast, **given)))
        deepsparse.add(sides, THEIRS, Logits(model).eval(), [x], Path(scratch))
        show(f"batch {batch}: {list(sides.turns)}")
        got = timed(sides, 3 if quick else 9, 0.1 if quick else 0.4)
        sides.close()
    return got, sides.missing, moved


def main(make: Make, name: str, title: str, description: str | None) -> None:
    """Times the net at both batches and writes the page."""
    asked = options(description)
    rows, targets, missing, charts, notes = [], [], {}, {}, []
    for batch in BATCHES:
        got, left, moved = _measured(make, batch, asked.quick)
        missing |= left
        charts[f"batch {batch}"] = got
        rows += [[batch, side, got.ms(side), got.ratio(side, "torch")] for side in got.rounds]
        notes.append(f"- batch {batch}: " + ", ".join(f"{side} {far:.1%}" for side, far in moved.items()))
        best = got.best(DENSE)
        targets.append(Target(f"batch {batch}, times the best dense engine ({best})", 2.0, got.ratio(OURS, best)))
        for side, against, wanted in (
            (OURS, THEIRS, 1.0),
            (EIGHT, OURS, 1.0),
            (EIGHT, RIVAL, 1.0),
            (BLOCKS, RIVAL, 1.0),
        ):
            there = side in got.rounds and against in got.rounds
            ratio = got.ratio(side, against) if there else None
            targets.append(Target(f"batch {batch}, {side}: times {against}", wanted, ratio))
    body = table(["batch", "", "ms", "times torch"], rows)
    body += "\n\nDistance of 8-bit outputs from the float ones, of their norm:\n\n" + "\n".join(notes)
    report(name, title, body, targets, missing, asked, charts)
