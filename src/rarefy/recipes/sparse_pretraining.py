"""Sparse pre-training of a language model in steps: prune, train with the zeros fixed, prune further, train again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rarefy.calibration.batches import as_batches
from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.core.site import find_sites
from rarefy.pruning import prune


@dataclass(frozen=True)
class Stage:
    """One stage: the sparsity that was asked and reached, and what `train` gave back."""

    asked: float
    reached: float
    result: Any


def square_head(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Mean over layers of MSE(f_t, f_s) / MSE(f_t, 0): 0 for equal hidden states, the same at every scale.

    student, teacher: hidden states (..., width) of the layers; mask (...): the tokens that count.
    Source: Kurtic et al. 2023 (SquareHead), arXiv:2310.06927, eq. 1.
    """
    if len(student) != len(teacher) or not student:
        raise SparsityError(f"square_head: {len(student)} hidden states beside {len(teacher)}; give one each a layer")
    total = student[0].new_zeros(())
    for ours, theirs in zip(student, teacher, strict=True):
        if mask is not None:
            ours, theirs = ours[mask], theirs[mask]
        total = total + (ours - theirs).square().mean() / theirs.square().mean().clamp_min(1e-12)
    return total / len(student)


@method("sparse-llama-pretraining", role="study", source="Agarwalla et al. 2024, arXiv:2405.03594, section 3")
def sparse_llama_pretraining(
    model: nn.Module,
    train: Callable[[nn.Module, int], Any],
    data: Iterable[Any],
    *,
    sparsities: Sequence[float] = (0.5, 0.7),
    pruning: str = "sparsegpt",
    ignore: Sequence[str] = (),
    seed: int = 0,
    **options: Any,
) -> list[Stage]:
    """Prunes in rising steps with training under the fixed zeros after each, in place; masks are nested.

    train(model, stage): pre-trains the model with its zeros fixed (`rarefy.sparse_training(..., "static",
    start="given")`), on as many tokens as the stage gets. data: calibration batches of the one-shot method `pruning`,
    whose `options` are passed on. Fine-tune afterwards with `square_head` and the teacher's logits.
    """
    if not sparsities or list(sparsities) != sorted(set(sparsities)):
        raise SparsityError(f"sparse_llama_pretraining: sparsities {list(sparsities)} do not rise")
    batches, found = as_batches(data, method=pruning, needed=True), []
    for number, sparsity in enumerate(sparsities):
        prune(model, pruning, sparsity=sparsity, data=batches, ignore=ignore, seed=seed, **options)
        sites, _ = find_sites(model, ignore)
        zeros = [(site, site.parameter.detach() == 0) for site in sites]
        result = train(model, number)
        for site, zero in zeros:
            if bool((site.parameter.detach()[zero] != 0).any()):
                raise SparsityError(f"{site.name}: `train` filled zeros of stage {number}; train with the zeros fixed")
        size = sum(zero.numel() for _, zero in zeros)
        found.append(Stage(sparsity, sum(int((s.parameter == 0).sum()) for s, _ in zeros) / size, result))
    return found
