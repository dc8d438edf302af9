"""Whole blocks, exactly as many as scheduled, and blocks that were cut come back."""

import pytest
import torch

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.topk import exact_count
from rarefy.patterns.block import Block
from rarefy.training.blast_block_sparse import blast_block_sparse
from rarefy.training.gmp import gmp
from rarefy.training.method import SparseMethod
from training.loops import adam, mlp, start, train


def prunes_and_grows(method: SparseMethod) -> None:
    task = mlp()
    trainer = rarefy.sparse_training(task.model, adam(task.model), method, sparsity=0.75, total_steps=60)
    state, returned = trainer.run.states[1], 0
    gone = ~state.mask
    for done, _ in enumerate(train(task, trainer, 60), 1):
        returned += int((gone & state.mask).sum())
        gone = ~state.mask
        blocks = state.mask.reshape(16, 4, 16, 4).transpose(1, 2).flatten(2).sum(2)
        assert bool(((blocks == 0) | (blocks == 16)).all())
        if done % 5 == 0 and done <= 45:
            density = 0.25 + 0.75 * (1 - done / 45) ** 3
            assert int((blocks == 16).sum()) == exact_count(256, density)
    assert returned >= 16


def test_the_count_is_scheduled_and_blocks_come_back() -> None:
    options = {"pattern": Block(4, 4), "every": 5, "begin": 0.0}
    assert_beats_impostor(prunes_and_grows, blast_block_sparse(**options), gmp(**options))


def test_fresh_blocks_are_those_of_the_largest_gradients_and_begin_at_zero() -> None:
    task = mlp()
    trainer, _ = start(task, "blast-block-sparse", pattern="block:4x4", every=5, begin=0.0, fresh=0.25, total_steps=60)
    list(train(task, trainer, 24))
    state, before = trainer.run.states[1], trainer.run.states[1].mask.clone()
    task.loss(24).backward()

    def norms(matrix: torch.Tensor) -> torch.Tensor:
        return matrix.square().reshape(16, 4, 16, 4).sum((1, 3)).flatten()

    by_weight, by_gradient = norms(state.value()), norms(state.grad())
    density = 0.25 + 0.75 * (1 - 25 / 45) ** 3
    kept = exact_count(256, density * 0.75)
    first = set(by_weight.argsort(descending=True)[:kept].tolist())
    others = [i for i in by_gradient.argsort(descending=True).tolist() if i not in first]
    expected = first | set(others[: exact_count(256, density) - kept])
    trainer.run.step = 24
    trainer.method.topology.before(trainer.run)
    found = state.mask.reshape(16, 4, 16, 4).any(3).any(1).flatten().nonzero().flatten().tolist()
    assert set(found) == expected
    assert bool((state.value()[state.mask & ~before] == 0).all())


def test_shares_are_checked() -> None:
    with pytest.raises(SparsityError, match="no share of the blocks"):
        blast_block_sparse(fresh=1.0)


@pytest.mark.parametrize("pattern", ["2:4", "t2:4"])
def test_patterns_of_one_density_are_refused_at_the_beginning(pattern: str) -> None:
    model = mlp().model
    with pytest.raises(SparsityError, match=r"blast-block-sparse: the density falls .* give blocks"):
        rarefy.sparse_training(model, adam(model), "blast-block-sparse", pattern=pattern, total_steps=20)
