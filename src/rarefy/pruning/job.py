"""What one pruning call works on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rarefy.core.protocols import Pattern
from rarefy.core.site import Site
from rarefy.pruning.one_shot import BlockFit, OneShot

Progress = Callable[[str, int, int], None]  # (site, how many are done, how many there are)
Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Job:
    """What a call works on. patterns: each site's own; match: the fit of whole blocks after their layers;
    fit: whether zeros that are there already must fit the pattern."""

    model: nn.Module
    sites: Sequence[Site]
    patterns: Mapping[str, Pattern]
    batches: Sequence[Any]
    loss: Loss | None
    seed: int
    one_shot: OneShot
    progress: Progress | None = None
    match: BlockFit | None = None
    fit: bool = False
