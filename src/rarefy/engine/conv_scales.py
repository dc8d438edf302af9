"""Static scales of the images between 8-bit convolutions, from what a captured graph computes on a few batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import as_call
from rarefy.core.errors import DataError
from rarefy.engine.fused_conv import FusedConv8
from rarefy.engine.input_scales import best_scale
from rarefy.ops.conv8 import Scale

_SAMPLES = 1 << 16  # values with which ranges are tried
_KINDS = ("to_scale", "x_scale", "residual_scale")
ConvScales = tuple[Scale | None, Scale | None, Scale | None]  # of the result, of the image, of what is added to it


@dataclass
class _Seen:
    """The range of a value over all batches, and a random sample of it."""

    low: float = 0.0
    high: float = 0.0
    samples: list[Tensor] = field(default_factory=list)
    random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def add(self, x: Tensor, batches: int) -> None:
        flat = x.detach().flatten()
        low, high = flat.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        self.samples.append(flat[torch.randint(flat.numel(), (max(1, _SAMPLES // batches),), generator=self.random)])

    def scale(self) -> Scale:
        found = best_scale(torch.cat(self.samples), self.low, self.high)
        return found.scale, found.zero


def note_scales(graph: nn.Module, batches: Sequence[Any]) -> str | None:
    """Sets the scales of the 8-bit convolutions of a graph; returns a note where it did not, None where it did.

    The graph knows one image size: batches of other sizes are passed over. Raises DataError for values on the way that
    are not finite.
    """
    convs = _convs(graph)
    if not convs or not batches:
        return None
    seen = {name: (_Seen(), _Seen(), _Seen()) for name in convs}

    def hook(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            for one, x in zip(seen[name], (out, *args), strict=False):
                if x is not None and x.numel():
                    one.add(x, len(batches))

        return note

    handles = [conv.register_forward_hook(hook(name)) for name, conv in convs.items()]
    fitting = 0
    try:
        with torch.inference_mode():
            for batch in batches:
                args, kwargs = as_call(batch)
                try:
                    graph(*args, **kwargs)
                except (AssertionError, RuntimeError, TypeError, ValueError):  # another size: the graph refuses it
                    continue
                fitting += 1
    finally:
        for handle in handles:
            handle.remove()
    if fitting == 0:
        return "note: no batch of data= has the size of the example inputs: 8-bit convolutions find scales at each call"
    for name, conv in convs.items():
        for kind, one in zip(_KINDS, seen[name], strict=True):
            if one.samples:
                setattr(conv, kind, _finite(name, one).scale())
    return None


def scales_in(graph: nn.Module) -> dict[str, ConvScales]:
    """The scales that `note_scales` or `put_scales` set, by the graph's name of the convolution."""
    found = {name: (conv.to_scale, conv.x_scale, conv.residual_scale) for name, conv in _convs(graph).items()}
    return {name: scales for name, scales in found.items() if any(scales)}


def put_scales(graph: nn.Module, known: Mapping[str, ConvScales]) -> str | None:
    """Sets scales that were found before; a note where convolutions of the graph have none among them."""
    convs = _convs(graph)
    for name in convs.keys() & known.keys():
        for kind, scale in zip(_KINDS, known[name], strict=True):
            setattr(convs[name], kind, scale)
    lost = sorted(convs.keys() - known.keys()) if known else []
    return f"note: no scales were saved for {', '.join(lost)}: found at each call" if lost else None


def _convs(graph: nn.Module) -> dict[str, FusedConv8]:
    return {name: m for name, m in graph.named_modules() if isinstance(m, FusedConv8)}


def _finite(name: str, seen: _Seen) -> _Seen:
    if not all(bool(sample.isfinite().all()) for sample in seen.samples):
        raise DataError(f"compile: what {name} reads or makes on data is not finite; clean the data")
    return seen
