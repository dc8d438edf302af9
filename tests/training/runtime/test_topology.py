"""The handle of a support: edits, moves, refusals."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.core.errors import ShapeError
from rarefy.ops import Layer, TrainIndex
from rarefy.training.runtime import Topology, carry


def random_mask(rows, n, density, seed=3):
    return torch.rand(rows, n, generator=torch.Generator().manual_seed(seed)) < density


@given(st.integers(0, 9), st.integers(0, 17), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_mask_bits_gather_and_scatter_agree(rows, n, density, seed):
    mask = random_mask(rows, n, density, seed)
    topology = Topology(mask)
    dense = torch.arange(1.0, rows * n + 1).view(rows, n)
    assert torch.equal(topology.mask, mask) and topology.nnz == int(mask.sum())
    assert torch.equal(topology.gather(dense), dense[mask])
    assert torch.equal(topology.scatter(dense[mask]), dense * mask)
    assert torch.equal(topology.row_counts, mask.sum(1))
    assert torch.equal(Topology.from_bits(topology.bits, n).mask, mask)
    assert torch.equal(pickle.loads(pickle.dumps(topology)).mask, mask)


@given(st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_edit_moves_what_stays_and_clears_what_is_new(seed):
    generator = torch.Generator().manual_seed(seed)
    mask = random_mask(7, 11, 0.4, seed)
    topology = Topology(mask)
    values = 1 + torch.rand(topology.nnz, generator=generator)
    dropped = torch.randperm(topology.nnz, generator=generator)[: topology.nnz // 3]
    gone = topology.positions[dropped]
    free = (~mask).flatten().nonzero().squeeze(1)
    grown = torch.cat([free[torch.randperm(free.numel(), generator=generator)[:4]], gone[:1]])  # one comes back
    old, before, version = Topology(mask), topology.scatter(values).flatten(), topology.version
    move = topology.edit(dropped, grown)
    before[gone] = 0
    want = mask.flatten().clone()
    want[gone] = False
    want[grown] = True
    assert torch.equal(topology.mask.flatten(), want) and topology.version > version
    assert torch.equal(topology.scatter(move.carry(values)).flatten(), before)
    assert bool((move.carry(values, 7.0)[move.source < 0] == 7.0).all())
    regrown = carry(old, topology, values)  # by position only, an entry that came back counts as kept
    assert torch.equal(topology.scatter(regrown)[mask & topology.mask], old.scatter(values)[mask & topology.mask])


@pytest.mark.parametrize(
    ("dropped", "grown", "says"),
    [
        ([99], [], "there are 3 entries"),
        ([-1], [], "there are 3 entries"),
        ([0, 0], [], "twice"),
        ([], [1, 1], "twice"),
        ([], [4], "there are 4 positions"),
        ([], [0], "kept already"),
    ],
)
def test_a_refused_edit_changes_nothing(dropped, grown, says):
    topology = Topology(torch.tensor([[True, False], [True, True]]))
    mask, version = topology.mask, topology.version
    with pytest.raises(ShapeError, match=says):
        topology.edit(torch.tensor(dropped, dtype=torch.long), torch.tensor(grown, dtype=torch.long))
    assert torch.equal(topology.mask, mask) and topology.version == version


def test_the_index_is_prepared_once_and_again_after_an_edit():
    topology, layer = Topology(random_mask(6, 8, 0.5)), Layer(6, (8, 1, 1))
    first = topology.index(layer)
    assert topology.index(layer) is first
    topology.edit(torch.tensor([0]), torch.empty(0, dtype=torch.long))
    assert topology.index(layer) is not first and topology.index(layer).entries == topology.nnz
    with pytest.raises(ShapeError, match="weight is"):
        topology.index(Layer(6, (9, 1, 1)))


@pytest.mark.parametrize(
    ("offsets", "columns"),
    [
        ([0, 2, 1], [0, 1, 2]),
        ([1, 2, 3], [0, 1, 2]),
        ([0, 1, 2], [0, 1, 2]),
        ([0, 1, 3], [0, 1, 4]),
        ([0, 1, 3], [0, -1, 2]),
    ],
)
def test_an_index_from_outside_is_checked(offsets, columns):
    with pytest.raises(ValueError, match=r"row offset|column"):
        TrainIndex(Layer(2, (4, 1, 1)), torch.tensor(offsets), torch.tensor(columns))


def test_masks_that_are_none_are_refused():
    for mask in (torch.ones(2, 2), torch.ones(2, 2, 2, dtype=torch.bool)):
        with pytest.raises(ShapeError, match="give a bool"):
            Topology(mask)
    with pytest.raises(ShapeError, match="no mask"):
        Topology.from_bits(torch.full((2, 1), 255, dtype=torch.uint8), 7)
    with pytest.raises(ShapeError, match="differ"):
        Topology(torch.ones(2, 2).bool()).move_to(Topology(torch.ones(2, 3).bool()))
