"""What the layers of a model saw on a few batches: the range of every input, and some whole rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import as_batches, call_model, inference
from rarefy.core.calls import first_input
from rarefy.core.errors import DataError
from rarefy.core.site import Site

_ROWS = 512  # kept of a layer, for the choice of its scale
_ENTRIES = 1 << 19  # of these rows at most


@dataclass
class Seen:
    """low, high: of every input of a layer over all rows, (in); rows: a random sample of them, (n, in)."""

    low: Tensor | None = None
    high: Tensor | None = None
    samples: list[Tensor] = field(default_factory=list)
    random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def add(self, x: Tensor, batches: int) -> None:
        """Takes in what came with one of so many batches."""
        flat = x.detach().reshape(-1, x.shape[-1]).float()
        low, high = flat.aminmax(dim=0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        share = max(1, min(_ROWS, _ENTRIES // flat.shape[1]) // batches)
        chosen = torch.randperm(flat.shape[0], generator=self.random)[:share]
        self.samples.append(flat[chosen])

    @property
    def rows(self) -> Tensor:
        return torch.cat(self.samples)

    def halves(self) -> tuple["Seen", "Seen"]:
        """What the rows of every other batch alone would have shown, and those of the others (of one: its rows)."""
        parts = self.samples if len(self.samples) > 1 else list(self.samples[0].split(1))
        both = Seen(), Seen()
        for half, first in zip(both, (0, 1), strict=True):
            half.samples = parts[first::2] or parts
            half.low, half.high = half.rows.aminmax(dim=0)
        return both

    @property
    def key(self) -> bytes:
        """The same for layers that read the same inputs: no two inputs have the same ranges in every entry."""
        assert self.low is not None and self.high is not None
        return self.low.numpy().tobytes() + self.high.numpy().tobytes()


def seen_inputs(model: nn.Module, sites: Sequence[Site], data: object) -> dict[str, Seen]:
    """What each site saw on the batches of `data`, by its name; a site that no batch reaches is left out.

    Raises DataError for data that is not batches, and for inputs of a layer that are not finite.
    """
    batches = as_batches(data, method="compile(activations='int8')", needed=True)
    seen = {site.name: Seen() for site in sites}

    def hook(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = first_input(args, kwargs)
            if x.numel():
                seen[name].add(x, len(batches))

        return note

    hooks = [m.register_forward_pre_hook(hook(s.name), with_kwargs=True) for s in sites for m in s.modules]
    try:
        with inference(model):
            for index, batch in enumerate(batches):
                call_model(model, batch, index)
    finally:
        for handle in hooks:
            handle.remove()
    reached = {name: s for name, s in seen.items() if s.samples}
    for name, s in reached.items():
        _require_finite(name, s)
    return reached


def _require_finite(name: str, seen: Seen) -> None:
    assert seen.low is not None and seen.high is not None
    if not bool(seen.low.isfinite().all() and seen.high.isfinite().all()):
        raise DataError(
            f"compile: the inputs of {name} reach {float(seen.low.min())}..{float(seen.high.max())} on data; "
            "clean the data"
        )
