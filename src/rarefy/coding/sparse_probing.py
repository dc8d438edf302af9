"""Sparse probing: how few neurons say whether a feature is there."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.coding.best_subset import best_subset
from rarefy.coding.logistic import fit_logistic
from rarefy.coding.probe_rankers import RANKERS, adaptive
from rarefy.core.errors import DataError, SolverError, unknown_name
from rarefy.core.registry import method
from rarefy.core.shapes import Bool
from rarefy.core.topk import keep_top


@dataclass(frozen=True)
class Probe:
    """A logistic classifier on k neurons, and what it does on held-out data, both classes weighted equally."""

    k: int
    neurons: tuple[int, ...]
    f1: float
    precision: float
    recall: float
    mcc: float


def quality(calls: Bool[Tensor, "samples"], label: Bool[Tensor, "samples"]) -> tuple[float, float, float, float]:
    """(F1, precision, recall, Matthews' correlation) of calls, each class weighing one half."""
    hit, false = float(calls[label].double().mean()), float(calls[~label].double().mean())
    called = hit + false
    precision = hit / called if called else 0.0
    f1 = 2 * precision * hit / (precision + hit) if precision + hit else 0.0
    spread = (called * (2 - called)) ** 0.5
    return f1, precision, hit, (hit - false) / spread if spread else 0.0


@method("sparse-probing", role="study", source="Gurnee et al. 2023, arXiv:2305.01610, sections 3 and 4")
def sparse_probing(
    x: Tensor,
    label: Tensor,
    *,
    ks: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256),
    ranker: str = "adaptive",
    held_out: float = 0.3,
    seed: int = 0,
) -> list[Probe]:
    """One probe for each k: the best k neurons by `ranker`, refitted on them, measured on data that neither saw.

    x: activations (samples, width) of any float type, computed with in float32 or better; label: bool (samples,).
    ranker: "mean-difference", "f-score", "mutual-information", "l1", "adaptive", or "exact" (proved, for small k and
    tens of neurons; SolverError where the proof stays open).
    ks above the width are left out. A feature of one neuron is flat from k = 1 on, one in superposition rises with k.
    """
    if ranker not in (*RANKERS, "exact"):
        raise unknown_name("sparse_probing(ranker=)", ranker, (*RANKERS, "exact"))
    if x.dim() != 2 or label.dtype != torch.bool or len(x) != len(label):
        raise DataError(
            f"sparse_probing: x is {tuple(x.shape)}, label {label.dtype} {tuple(label.shape)}; give x (samples, width) "
            "and a bool label a sample, as label > 0"
        )
    if min(int(label.sum()), int((~label).sum())) < 4:
        raise DataError(
            f"sparse_probing: {int(label.sum())} of {len(label)} labels are true; give both classes, 4 samples each"
        )
    if low := [k for k in ks if k < 1]:
        raise DataError(f"sparse_probing: ks has {low[0]}; a probe reads 1 neuron or more")
    if not x.isfinite().all():
        raise DataError("sparse_probing: x holds NaN or infinity; leave those samples out")
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    train, test = _split(label, held_out, seed)
    found = []
    for k in (k for k in ks if k <= x.shape[1]):
        neurons = choose(x[train], label[train], k, ranker)
        fit = fit_logistic(x[train][:, list(neurons)], label[train])
        found.append(Probe(k, neurons, *quality(fit.calls(x[test][:, list(neurons)]), label[test])))
    return found


def choose(x: Tensor, label: Tensor, k: int, ranker: str) -> tuple[int, ...]:
    """The k neurons of a ranker, rising."""
    if ranker == "exact":
        return _proved(x, label, k)
    score = adaptive(x, label, k=k) if ranker == "adaptive" else RANKERS[ranker](x, label)
    return tuple(keep_top(score[None].double(), k)[0].nonzero().flatten().tolist())


def _proved(x: Tensor, label: Tensor, k: int) -> tuple[int, ...]:
    found = best_subset(x, label, k)
    if found.gap > 0:
        raise SolverError(
            f'sparse_probing: ranker="exact" has not proved the best {k} of {x.shape[1]} neurons after {found.cuts} '
            f"cuts ({found.gap:.0%} are open); give fewer neurons or a smaller k, or call best_subset with more cuts"
        )
    return found.neurons


def _split(label: Tensor, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the held-out samples, each class cut by the same share."""
    if not 0.0 < held_out < 1.0:
        raise DataError(f"sparse_probing: held_out={held_out} leaves nothing to learn from or to measure on")
    generator, train, test = torch.Generator().manual_seed(seed), [], []
    for rows in (label.nonzero().flatten(), (~label).nonzero().flatten()):
        mixed = rows[torch.randperm(len(rows), generator=generator)]
        cut = max(1, int(len(rows) * held_out))
        test.append(mixed[:cut])
        train.append(mixed[cut:])
    return torch.cat(train), torch.cat(test)
