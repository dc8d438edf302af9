"""Data pruning: which examples are worth training on, seen early in training."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from rarefy.calibration.batches import evaluation
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Int
from rarefy.core.topk import exact_count, keep_top

Batches = Sequence[tuple[Tensor, Tensor]]


def el2n(model: nn.Module, batches: Batches) -> Float[Tensor, " examples"]:
    """`|softmax(f(x)) - onehot(y)|_2` of every example, in the order of the batches.

    batches: (inputs, class numbers (examples,)) each; f(x) are logits (examples, classes). Evaluation mode.
    Source: Paul et al. 2021, arXiv:2107.07075, section 3 (EL2N).
    """
    with evaluation(model), torch.no_grad():
        found = []
        for x, y in batches:
            logits = model(x)
            wanted = F.one_hot(_classes(y, logits), logits.shape[1]).to(logits.dtype)
            found.append((logits.softmax(1) - wanted).norm(dim=1))
    return torch.cat(found)


def grand(model: nn.Module, batches: Batches) -> Float[Tensor, " examples"]:
    """`|d loss(f(x), y) / d theta|_2` of every example: the norm of its own gradient over all parameters.

    Cross-entropy; evaluation mode, so examples do not meet in batch norms. Source: Paul et al. 2021, definition 2.1.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name: b.detach() for name, b in model.named_buffers()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(model, {**values, **buffers}, (x[None],))
        return F.cross_entropy(logits, y[None])

    with evaluation(model):
        each = vmap(grad(loss), in_dims=(None, 0, 0))
        found = []
        for x, y in batches:
            squares = [g.flatten(1).square().sum(1) for g in each(parameters, x, y).values()]
            found.append(torch.stack(squares).sum(0).sqrt())
    return torch.cat(found)


_SCORES = {"el2n": el2n, "grand": grand}


@method("el2n-grand", role="study", source="Paul et al. 2021, arXiv:2107.07075, sections 2 and 3", protocols=("score",))
def score_examples(models: Iterable[nn.Module], batches: Batches, *, score: str = "el2n") -> Float[Tensor, " examples"]:
    """How hard each example is: EL2N or GraNd, averaged over several nets that were trained a little.

    models: nets from different initialisations, trained some epochs (EL2N) or none (GraNd); the paper averages ten.
    score: "el2n" | "grand".
    """
    if score not in _SCORES:
        raise SparsityError(f'score: {score!r} is not one of {sorted(_SCORES)}; "el2n" needs no gradients')
    every = [_SCORES[score](model, batches) for model in models]
    if not every:
        raise DataError("score_examples: no model was given; train a few nets for some epochs and give them")
    return torch.stack(every).mean(0)


def keep_examples(
    scores: Float[Tensor, " examples"], sparsity: float, *, drop_hardest: float = 0.0
) -> Int[Tensor, " kept"]:
    """Indices of the hardest examples that are left when the share `sparsity` of all is taken away.

    drop_hardest: the share of all that is left out at the hard end first: often mislabelled ones (section 4.1).
    """
    total = scores.numel()
    hardest = exact_count(total, drop_hardest)
    count = exact_count(total, 1.0 - sparsity)
    if not 0 < count <= total - hardest:
        raise SparsityError(
            f"keep_examples: {count} of {total} examples cannot be kept when the {hardest} hardest are left out"
        )
    out = keep_top(scores[None].float(), hardest)[0]
    return keep_top(scores[None].float().masked_fill(out, float("-inf")), count)[0].nonzero().flatten()


def _classes(y: Tensor, logits: Tensor) -> Tensor:
    if logits.dim() != 2 or y.shape != logits.shape[:1] or y.is_floating_point():
        raise DataError(
            f"el2n: logits {tuple(logits.shape)} and labels {tuple(y.shape)} ({y.dtype}) must be (examples, classes) "
            "and whole class numbers (examples,)"
        )
    return y
