"""Rounding that goes with any method: from the door's `quantize=` to a solver that prunes and rounds."""

from dataclasses import replace

from rarefy.core.errors import SparsityError
from rarefy.core.grid import QuantizeSpec
from rarefy.core.joint import JointSolver
from rarefy.core.protocols import Solver
from rarefy.pruning.one_shot import OneShot
from rarefy.solvers.awp import ProjectedGradient
from rarefy.solvers.gptq import GPTQ
from rarefy.solvers.quantized import Quantized
from rarefy.solvers.sparsegpt import SparseGPT


def with_rounding(one_shot: OneShot, quantize: QuantizeSpec | None) -> OneShot:
    """The method with a solver that also rounds; SparseGPT's sweep and AWP's projection do both at once, others
    round what they keep.

    Raises SparsityError for a method that rounds already, or that comes down in rounds or solves all layers together.
    """
    if quantize is None:
        return one_shot
    if one_shot.quantize is not None:
        raise SparsityError(f"quantize: the method rounds by itself ({one_shot.quantize}); give it bits= and group=")
    if isinstance(one_shot.solver, JointSolver) or one_shot.rounds > 1:
        why = "decides over all layers together" if isinstance(one_shot.solver, JointSolver) else "prunes in rounds"
        raise SparsityError(
            f"quantize: {type(one_shot.solver).__name__} {why} and cannot round on the way; prune first, then call "
            f'prune(model, "gptq", sparsity=0, bits={quantize.bits}, data=...), which keeps the zeros'
        )
    return replace(one_shot, solver=_rounding(one_shot.solver, quantize), quantize=quantize)


def _rounding(solver: Solver, quantize: QuantizeSpec) -> Solver:
    if isinstance(solver, SparseGPT) and quantize.rounding == "feedback":
        return GPTQ(quantize, solver.columns, solver.damping)
    if isinstance(solver, ProjectedGradient) and quantize.rounding == "feedback":
        return replace(solver, quantize=quantize)
    if isinstance(solver, ProjectedGradient) and quantize.rounding == "feedback":
        return replace(solver, quantize=quantize)
    return Quantized(solver, quantize)
