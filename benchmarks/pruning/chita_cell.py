"""One cell of the table: a network, a method, a sparsity, a seed."""

import copy
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from chita_models import Case, accuracy
from chita_paper import Setting
from torch import Tensor, nn

from rarefy.calibration import fisher
from rarefy.pruning import prune

_known: dict[tuple[Any, ...], dict[str, Tensor]] = {}  # the gradients of the last dense model and seed


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Of one group of images, or of some: (groups, images of a group, ...)."""
    return F.cross_entropy(model(batch[0].flatten(0, 1)), batch[1].flatten())


def cell(
    case: Case,
    method: str,
    sparsity: float,
    seed: int,
    setting: Setting,
    *,
    held: bool = False,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Accuracy, seconds and the solver's word; held: judged by the training images that were kept out.

    Gradients of the dense model are taken once for all methods and sparsities of a seed, so only the first of them has
    them in its seconds; cache: a folder that keeps them for later runs.
    """
    model, given = copy.deepcopy(case.model), dict(setting.options)
    rounds = given["rounds"] if method == "chita-plus-plus" else 1
    began = time.perf_counter()
    if setting.samples:
        images, labels = case.draw(setting.samples * setting.group * rounds, seed)
        parts = zip(*(t.unflatten(0, (rounds, setting.samples, setting.group)) for t in (images, labels)), strict=True)
        given |= {"data": list(parts), "loss": loss}
    key = None if rounds > 1 else (case.name, setting.samples, setting.group, seed)
    with patch("rarefy.calibration.whole_model.per_sample_gradients", lambda *call: _gradients(key, cache, *call)):
        report = prune(model, method, sparsity=sparsity, allocation="global", ignore=case.ignore, seed=seed, **given)
    assert abs(report.sparsity - sparsity) < 1e-4, "the budget is met exactly"
    seconds = time.perf_counter() - began
    judged = accuracy(model, case.held if held else case.test)
    return {"accuracy": judged, "seconds": seconds, "result": dict(report.sites[0].result)}


def _gradients(key: tuple[Any, ...] | None, cache: Path | None, *call: Any) -> dict[str, Tensor]:
    if key is None:
        return fisher.per_sample_gradients(*call)
    if key not in _known:
        _known.clear()
        kept = None if cache is None else cache / ("-".join(map(str, key)) + ".pt")
        if kept is not None and kept.exists():
            _known[key] = torch.load(kept)
        else:
            _known[key] = fisher.per_sample_gradients(*call)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                torch.save(_known[key], kept)
    return _known[key]
