"""Groups by what the surgeon expects to lose with them, and a solver of its own for each layer."""

import pytest
import torch

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SolverError, SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Solver
from rarefy.patterns.block import Block
from rarefy.patterns.unstructured import Rowwise
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.assorted import Assorted
from rarefy.solvers.group_saliency import GroupSaliency
from rarefy.solvers.scored import Scored

WEIGHT = torch.tensor([[3.0, 3.0, 1.0, 1.0], [1.0, 1.0, 2.0, 2.0]])
INPUTS = torch.tensor([0.01, 0.01, 4.0, 4.0])  # the mean square of each input


def evidence(site: str = "fc") -> Evidence:
    return Evidence(site, {Need.INPUT_GRAM: torch.diag(INPUTS), Need.INPUT_SQNORM: INPUTS}, tokens=8)


def test_group_saliency() -> None:
    def check(solver: Solver) -> None:
        """Uncorrelated inputs: the loss of a group is the sum of w_j^2 h_j, of rows (0.18, 8) and (0.02, 32)."""
        mask = solver(WEIGHT, Block(1, 2), 0.5, evidence()).mask
        assert mask.tolist() == [[False, False, True, True]] * 2

    assert_beats_impostor(check, GroupSaliency(damping=0.0), Scored(Magnitude()))


def test_weights_stay_and_inputs_that_are_never_seen_go_first() -> None:
    gram = torch.eye(4)
    gram[1, 1] = 0.0
    solved = GroupSaliency()(WEIGHT, Rowwise(), 0.75, Evidence("fc", {Need.INPUT_GRAM: gram}, tokens=4))
    assert not solved.mask[:, 1].any() and solved.mask.sum() == 6
    assert torch.equal(solved.weight, WEIGHT * solved.mask)
    assert set(solved.result) == {"damping"}
    for wrong in ({"power": 0.0}, {"damping": -0.1}):
        with pytest.raises(SparsityError, match="power > 0 and damping >= 0"):
            GroupSaliency(**wrong)


def test_each_layer_gets_its_own_solver() -> None:
    both = Assorted({"a": Scored(Magnitude()), "b": GroupSaliency(damping=0.0)})
    assert both.needs == {Need.INPUT_GRAM}
    masks = {name: both(WEIGHT, Block(1, 2), 0.5, evidence(name)).mask.tolist() for name in "ab"}
    assert masks["a"] == [[True, True, False, False], [False, False, True, True]]
    assert masks["b"] == [[False, False, True, True]] * 2
    with pytest.raises(SolverError, match=r"no solver for c; it has those of \['a', 'b'\]"):
        both(WEIGHT, Rowwise(), 0.5, evidence("c"))
