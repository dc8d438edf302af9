"""Repairs that go with any method: from the words of the door to a solver and what is done to each block."""

from dataclasses import replace

from rarefy.calibration.match import BlockMatch
from rarefy.core.errors import SparsityError, unknown_name
from rarefy.core.grid import QuantizeSpec
from rarefy.core.joint import JointSolver
from rarefy.pruning.one_shot import BlockFit, OneShot
from rarefy.solvers.repaired import Repaired

_KINDS = ("bias", "weights", "block")


def with_repair(
    one_shot: OneShot, repair: str | None, quantize: QuantizeSpec | None = None
) -> tuple[OneShot, BlockFit | None]:
    """The method with its solver wrapped, and the fit of whole blocks if that is asked for.

    repair: None, or words joined by "+": "bias" and "weights" by least squares on each layer (`solvers.repaired`),
    "block" by gradient descent on each block (`calibration.match`).
    """
    words = [] if repair is None else repair.split("+")
    for word in words:
        if word not in _KINDS:
            raise unknown_name("repair", word, _KINDS)
    if words and isinstance(one_shot.solver, JointSolver):
        raise SparsityError(
            f"repair={repair!r}: {type(one_shot.solver).__name__} decides over all layers together and repairs them "
            "itself, while this repair works layer by layer; leave it out"
        )
    rounded = quantize or one_shot.quantize
    if "block" in words and rounded is not None:
        raise SparsityError(
            f'repair="block" would move weights off their grid ({rounded}); leave it out, or take the method gqsa, '
            "which fits blocks on the grid"
        )
    match: BlockFit | None = BlockMatch() if "block" in words else one_shot.match
    if "weights" in words or "bias" in words:
        solver = Repaired(one_shot.solver, weights="weights" in words, bias="bias" in words)
        return replace(one_shot, solver=solver), match
    return one_shot, match
