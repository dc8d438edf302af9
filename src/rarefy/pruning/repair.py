"""Repairs that go with any method: from the words of the door to a solver and what is done to each block."""

from dataclasses import replace

from rarefy.calibration.match import BlockMatch
from rarefy.core.errors import unknown_name
from rarefy.pruning.one_shot import OneShot
from rarefy.solvers.repaired import Repaired

_KINDS = ("bias", "weights", "block")


def with_repair(one_shot: OneShot, repair: str | None) -> tuple[OneShot, BlockMatch | None]:
    """The method with its solver wrapped, and the fit of whole blocks if that is asked for.

    repair: None, or words joined by "+": "bias" and "weights" by least squares on each layer (`solvers.repaired`),
    "block" by gradient descent on each block (`calibration.match`).
    """
    words = [] if repair is None else repair.split("+")
    for word in words:
        if word not in _KINDS:
            raise unknown_name("repair", word, _KINDS)
    match = BlockMatch() if "block" in words else None
    if "weights" in words or "bias" in words:
        solver = Repaired(one_shot.solver, weights="weights" in words, bias="bias" in words)
        return replace(one_shot, solver=solver), match
    return one_shot, match
