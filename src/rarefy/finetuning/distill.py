"""Recovery by distillation: the sparse model learns the dense model's hidden states, its zeros fixed."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.calibration import as_batches
from rarefy.calibration.batches import call_model, token_mask
from rarefy.calibration.chain import hidden, probe
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.registry import method
from rarefy.core.site import Site, find_sites
from rarefy.finetuning.distill_state import DistillState, Keep, Training

Embed = Callable[[Any, Any], Tensor]  # (output of the model, batch) -> (batch, width)


@dataclass(frozen=True)
class DistillReport:
    """What `distill` did: steps taken, seconds, the loss of every step, weights trained."""

    steps: int
    seconds: float
    losses: tuple[float, ...]
    trained: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@method(
    "distill",
    role="recovery",
    source="Hinton et al. 2015, arXiv:1503.02531; hidden states: Sanh et al. 2019, Jiao et al. 2020 (TinyBERT) eq. 8",
    protocols=("transform",),
)
def distill(
    student: nn.Module,
    teacher: nn.Module,
    data: Iterable[Any],
    *,
    steps: int,
    lr: float = 1.5e-4,
    warmup: float = 0.05,
    embed: Embed | None = None,
    embed_weight: float = 5.0,
    seconds: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
    state: DistillState | None = None,
    keep: Keep | None = None,
) -> DistillReport:
    """Recovers a pruned model by matching its dense teacher, block by block, its zeros kept.

    Loss of a batch: mean over the blocks of |h_s - h_t|^2 / var(h_t) over the tokens that are no padding, plus
    `embed_weight` times the mean of 1 - cos(embed(student), embed(teacher)) where `embed` is given (without blocks
    and without `embed`: the first output tensor is matched). Adam with betas (0.9, 0.98), linear warm-up over the
    share `warmup` of the steps, then linear decay to 0; evaluation mode, so no dropout.

    student, teacher: models of one structure; the student's blocks are trained, and only they where it has a chain
    of blocks. data: batches as for `prune`, visited in a new order each epoch. seconds: stop early (the schedule
    still ends at 0: it follows the larger share of steps and time). progress: called with (step, steps, loss).
    Weights that are exactly zero at the start of the pruned layers stay exactly zero.

    keep: called after each step with a function that gives a `DistillState`. state: such a state, to go on from; the
    student has to be as it was before the first step. The result is then that of a call without interruption, and the
    seconds that were used count.
    """
    if steps < 1 or lr <= 0:
        raise SparsityError(f"distill: steps={steps} and lr={lr} have to be positive")
    batches = as_batches(data, method="distill", needed=True)
    started = time.perf_counter()
    sites, _ = find_sites(student)
    with _training(student, teacher):
        with torch.no_grad():
            ours = probe(student, sites, batches[0], call_model).chain
        names = {id(m): name for name, m in student.named_modules()}
        theirs = [teacher.get_submodule(names[id(block)]) for block in ours]
        trained = [p for block in ours for p in block.parameters()] if ours else list(student.parameters())
        for parameter in trained:
            parameter.requires_grad_(True)
        masks = _masks(sites, trained)
        training = Training(_named(student, trained), torch.optim.Adam(trained, lr=lr, betas=(0.9, 0.98)), started, [])
        if state is not None:
            training.go_on(state)
        adam, losses = training.adam, training.losses
        for step, batch in islice(enumerate(_endless(batches, seed)), len(losses), None):
            done = max(step / steps, 0.0 if seconds is None else training.seconds / seconds)
            if done >= 1.0:
                break
            for group in adam.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / max(1.0, warmup * steps)) * (1.0 - done)
            loss = _loss(student, teacher, ours, theirs, batch, step, embed, embed_weight)
            adam.zero_grad()
            loss.backward()
            _zero_dropped([p.grad for p, _ in masks], [m for _, m in masks])
            adam.step()
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(step + 1, steps, losses[-1])
            if keep is not None:
                keep(training.state)
    return DistillReport(len(losses), training.seconds, tuple(losses), sum(p.numel() for p in trained))


def _named(model: nn.Module, parameters: Sequence[nn.Parameter]) -> dict[str, nn.Parameter]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: parameter for parameter in parameters}


def _masks(sites: Sequence[Site], trained: Sequence[nn.Parameter]) -> list[tuple[Tensor, Tensor]]:
    """(weight, 1 where it may change) of each trained layer that has zeros; they become +0.0, which no step changes."""
    among = {id(parameter) for parameter in trained}
    masks = [(s.parameter, s.parameter.detach() != 0) for s in sites if id(s.parameter) in among]
    masks = [(parameter, mask) for parameter, mask in masks if not bool(mask.all())]
    with torch.no_grad():
        return [(parameter.add_(0.0), mask.to(parameter.dtype)) for parameter, mask in masks]


def _zero_dropped(grads: Sequence[Tensor | None], masks: Sequence[Tensor]) -> None:
    """A zero gradient from the first step on leaves Adam's moments, and so a dropped weight, at exactly zero."""
    for grad, mask in zip(grads, masks, strict=True):
        if grad is not None:
            grad.mul_(mask)


def _endless(batches: Sequence[Any], seed: int) -> Iterator[Any]:
    order = random.Random(seed)
    while True:
        yield from order.sample(list(batches), len(batches))


@contextmanager
def _training(student: nn.Module, teacher: nn.Module) -> Iterator[None]:
    """Evaluation mode for both, gradients off except where asked, everything put back after."""
    models = (student, teacher)
    flags = {p: p.requires_grad for model in models for p in model.parameters()}
    modes = {m: m.training for model in models for m in model.modules()}
    for model in models:
        model.eval()
        model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
        for module, training in modes.items():
            module.training = training


@contextmanager
def _outputs(blocks: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The hidden states that leave each block while the context is open, in order."""
    seen: list[Tensor] = []
    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_hook(lambda m, a, out: seen.append(hidden(out))).remove)
        yield seen


def _loss(
    student: nn.Module,
    teacher: nn.Module,
    ours: Sequence[nn.Module],
    theirs: Sequence[nn.Module],
    batch: Any,
    step: int,
    embed: Embed | None,
    embed_weight: float,
) -> Tensor:
    with torch.no_grad(), _outputs(theirs) as wanted:
        target = call_model(teacher, batch, step)
    with _outputs(ours) as got:
        output = call_model(student, batch, step)
    real = token_mask(batch)
    parts = [_relative(a, b, real) for a, b in zip(got, wanted, strict=True)]
    loss = torch.stack(parts).mean() if parts else torch.zeros(())
    if embed is not None:
        away = 1.0 - F.cosine_similarity(embed(output, batch), embed(target, batch))
        loss = loss + embed_weight * away.mean()
    elif not parts:
        loss = _relative(_first_tensor(output), _first_tensor(target), real)
    if not bool(loss.isfinite()):
        raise DataError(f"distill: the loss of step {step} is {float(loss.detach())}; lower lr or check the data")
    return loss


def _relative(a: Tensor, b: Tensor, real: Tensor | None) -> Tensor:
    """Mean squared difference over the variance of the teacher's values, padding left out."""
    if real is not None and a.dim() == 3 and a.shape[:2] == real.shape:
        a, b = a[real], b[real]
    return F.mse_loss(a, b) / b.var().clamp_min(1e-12)


def _first_tensor(output: Any) -> Tensor:
    first = (
        output if isinstance(output, Tensor) else next(iter(output.values() if hasattr(output, "values") else output))
    )
    if not isinstance(first, Tensor):
        raise DataError(f"distill: the model's first output is a {type(first).__name__}, no tensor; give embed=")
    return first
