"""Which trainers are at work: no two may hang on one optimizer or hold one weight."""

import gc
import weakref
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

import torch

from rarefy.core.errors import ModelError
from rarefy.core.site import Site
from rarefy.training.runtime import faces

if TYPE_CHECKING:
    from rarefy.training.trainer import SparseTrainer

_LOCK, _TRAINERS = Lock(), weakref.WeakSet["SparseTrainer"]()


def begins(trainer: "SparseTrainer") -> None:
    """From now on its optimizer and its weights are taken."""
    with _LOCK:
        _TRAINERS.add(trainer)


def ends(trainer: "SparseTrainer") -> None:
    """They are free again."""
    with _LOCK:
        _TRAINERS.discard(trainer)


def require_free(optimizer: torch.optim.Optimizer) -> None:
    """Refuses an optimizer that another trainer hangs on: each would undo what the other does around a step."""
    for other in _at_work():
        if other.run.optimizer is optimizer:
            raise ModelError(
                f"optimizer: a sparse trainer ({other.name!r}, step {other.step_count}) is at work on it already, and "
                "two would undo each other's masks; end that one with its detach() first, or, where this one is for "
                "other layers, give them an optimizer of their own"
            )


def require_unheld(weights: Sequence[Site]) -> None:
    """Refuses weights that a trainer at work holds, whatever its optimizer: two masks cannot hold at once.

    Layers that are packed for a trainer which is gone, or which were pickled so, are made dense.
    """
    if _holder(weights, _at_work()) is not None:
        gc.collect()  # trainer and optimizer hold each other: two that nobody else holds are not at work any more
    found = _holder(weights, _at_work())
    if found is not None:
        other, names = found
        raise ModelError(
            f"sparse_training: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} of the model "
            f"{'is' if len(names) == 1 else 'are'} held by a sparse trainer ({other.name!r}, step {other.step_count}) "
            "that is at work on it with another optimizer, and the masks of two cannot hold at once; end that one with "
            "its detach() first, or leave its layers alone with ignore="
        )
    for module in {id(module): module for weight in weights for module in weight.modules}.values():
        if faces.is_packed(module):
            faces.unpack_module(module)


def _at_work() -> list["SparseTrainer"]:
    with _LOCK:
        return list(_TRAINERS)


def _holder(weights: Sequence[Site], trainers: Iterable["SparseTrainer"]) -> "tuple[SparseTrainer, list[str]] | None":
    for trainer in trainers:
        held = {id(state.weight.parameter) for state in trainer.run.states}
        names = [weight.name for weight in weights if id(weight.parameter) in held]
        if names:
            return trainer, names
    return None
