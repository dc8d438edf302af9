"""Machine unlearning on sparse nets: prune first, then forget, and compare with training anew."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.errors import DataError, unknown_name
from rarefy.core.registry import method
from rarefy.training.begin import begin
from rarefy.training.fixed import Fixed
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run
from rarefy.training.starts import GivenStart
from rarefy.training.unlearn_jumps import fisher_noise, influence_step

Examples = tuple[Tensor, Tensor]
WAYS = ("fine-tune", "ascent", "fisher", "influence")


@dataclass(frozen=True)
class FadingL1:
    """`g_t |w|_1`, g_t falling in equal steps from `strength` at the first step to 0 at the last.

    Source: Jia et al. 2023, arXiv:2304.04934, eq. 3 (l1-sparse MU) and its linearly decreasing scheduler.
    """

    strength: float

    def at(self, step: int, total_steps: int) -> float:
        """g_t."""
        return self.strength * (1.0 - step / max(1, total_steps - 1))

    def __call__(self, weights: Sequence[Tensor], run: Run) -> Tensor | None:
        strength = self.at(run.step, run.end("unlearn-sparse"))
        return None if strength == 0.0 else strength * torch.stack([w.abs().sum() for w in weights]).sum()


@dataclass(frozen=True)
class Unlearned:
    """How it went: optimizer steps (0 for the ways that take none), seconds, zeros as a share of the weights."""

    way: str
    steps: int
    seconds: float
    sparsity: float


@method(
    "unlearn-sparse",
    role="study",
    source="Jia et al. 2023, arXiv:2304.04934, sections 3 and 4",
    protocols=("transform",),
)
def unlearn(
    model: nn.Module,
    retain: Examples,
    forget: Examples,
    *,
    way: str = "fine-tune",
    l1: float = 0.0,
    epochs: int = 5,
    batch: int = 64,
    optimizer: Callable[[Sequence[nn.Parameter]], Any] | None = None,
    strength: float = 1.0,
    damping: float = 1e-3,
    samples: int = 256,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> Unlearned:
    """Makes a classifier forget some of its training data, in place; weights that are zero stay zero.

    The paper's finding is that a model that was pruned first (by magnitude, tickets, SynFlow, ...; 95 % there) forgets
    better: prune it with any method, then call this. retain, forget: (inputs, class numbers) of what stays and goes.
    way: "fine-tune" trains on what stays; "ascent" climbs the loss of what goes; "fisher" adds noise of variance
    `strength / F`, F the Fisher diagonal of what stays; "influence" makes one step of influence functions. l1: penalty
    on all weights that fades to nothing (fine-tune only), which needs no pruned model. optimizer: of the parameters; by
    default SGD, momentum 0.9, rate 0.01 (ascent: 1e-4). damping, samples: see `unlearn_jumps`.
    """
    if way not in WAYS:
        raise unknown_name("way", way, WAYS)
    if l1 and way != "fine-tune":
        raise DataError(f'l1: the penalty goes with way="fine-tune", not with {way!r}')
    for name, (x, y) in {"retain": retain, "forget": forget}.items():
        if not len(x) or len(x) != len(y):
            raise DataError(f"{name}: {len(x)} inputs and {len(y)} class numbers; give as many of both, at least one")
    rate = 1e-4 if way == "ascent" else 1e-2
    make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9))
    data = forget if way == "ascent" else retain
    steps = epochs * -(-len(data[0]) // batch)
    kept = SparseMethod(GivenStart(), Fixed(), penalty=FadingL1(l1) if l1 else None, exact=False)
    trainer = begin(model, make(list(model.parameters())), kept, name="unlearn", total_steps=steps, ignore=ignore)
    began = time.perf_counter()
    if way in ("fine-tune", "ascent"):
        _descend(model, trainer, data, epochs, batch, -1.0 if way == "ascent" else 1.0, seed)
    else:
        if way == "fisher":
            fisher_noise(model, retain, strength, samples, seed)
        else:
            influence_step(model, retain, forget, strength, damping, samples, seed)
        for state in trainer.run.states:
            state.put(state.value() * state.mask)
    seconds = time.perf_counter() - began
    report = trainer.detach()
    return Unlearned(way, report.step, seconds, report.sparsity)


def _descend(model: nn.Module, trainer: Any, data: Examples, epochs: int, batch: int, sign: float, seed: int) -> None:
    x, y = data
    order = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for at in torch.randperm(len(x), generator=order).split(batch):
            (sign * F.cross_entropy(model(x[at]), y[at])).backward()
            trainer.step()
            trainer.zero_grad()
    model.eval()
