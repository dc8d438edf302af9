"""AST: 2:4 masks that settle, adapters that give back block means, and a loss below that of a frozen mask."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.patterns.nm import NM
from rarefy.training.ast_slorb import AnnealedDecay, ast_slorb, distillation
from rarefy.training.slorb import SLoRBLinear, pruned_means
from rarefy.training.static import static
from training.loops import STEPS, mlp, sgd, start, train


def dense_output_at_the_start(fill: Any) -> None:
    """Inputs that are constant in blocks of 64 (and in a last one of 16) give the dense layer's output."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(144, 32))
    sparse = copy.deepcopy(dense)
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1)
    rarefy.sparse_training(sparse, optimizer, "ast-slorb", total_steps=10)
    fill(sparse[0].slorb)
    x = torch.randn(5, 3).repeat_interleave(64, dim=1)[:, :144]
    assert bool(NM(2, 4).allows(sparse[0].weight != 0)) and int((sparse[0].weight != 0).sum()) == 144 * 16
    assert torch.allclose(sparse(x), dense(x), atol=1e-5)


def test_adapters_give_back_the_block_means_of_what_was_pruned() -> None:
    def random(slorb: Tensor) -> None:
        nn.init.normal_(slorb, std=0.02)

    assert_beats_impostor(dense_output_at_the_start, lambda slorb: None, random)
    weight, mask = torch.tensor([[1.0, 2.0, 3.0, 5.0, 6.0]]), torch.tensor([[False, True, True, False, False]])
    assert torch.equal(pruned_means(weight, mask, 4), torch.tensor([[6.0 / 4, 6.0]]))


def test_the_decay_rises_to_its_share_and_stays() -> None:
    decay = AnnealedDecay(6e-5, 0.5)
    assert [decay.strength(t, 100) for t in (0, 25, 50, 90)] == pytest.approx([0.0, 3e-5, 6e-5, 6e-5])
    task = mlp()
    trainer, _ = start(task, "ast-slorb", sgd, decay=0.5)
    list(train(task, trainer, 6))
    state = trainer.run.states[1]
    task.loss(6).backward()
    seen = state.grad().clone()
    shrinks = state.value() * ~state.mask * (0.5 * 6 / 12)
    assert torch.allclose(trainer.method.transform.on_grad(seen, state.value(), state) - seen, shrinks, atol=1e-7)


def test_the_adapters_are_trained_and_saved_and_other_layers_stay() -> None:
    task = mlp()
    trainer, optimizer = start(task, "ast-slorb")
    before = [layer.slorb.detach().clone() for layer in task.model if isinstance(layer, SLoRBLinear)]
    list(train(task, trainer, 5))
    assert len(before) == 3 and "2.slorb" in task.model.state_dict()
    assert all(not torch.equal(a, m.slorb) for a, m in zip(before, task.model[::2], strict=True))
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 9
    plain = mlp()
    start(plain, "ast-slorb", adapter=False)
    assert type(plain.model[0]) is nn.Linear


class Bytes(nn.Module):
    """A transformer of one layer for bytes below 32."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(32, 32), nn.Parameter(torch.zeros(12, 32))
        self.up, self.down, self.mix = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 32)
        self.ask, self.out = nn.Linear(32, 64), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        h = self.table(x) + self.places[: x.shape[1]]
        query, key = self.ask(h).chunk(2, -1)
        h = h + F.scaled_dot_product_attention(query, key, self.mix(h), is_causal=True)
        logits: Tensor = self.out(h + self.down(F.gelu(self.up(h))))
        return logits


def lines(seed: int, count: int = 64) -> Tensor:
    """Lines whose next byte is a table's entry for the last two, or one time in five any byte."""
    table = torch.randint(16, (16, 16), generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randint(16, (count,), generator=generator) for _ in range(2)]
    for _ in range(10):
        any_byte, chance = torch.randint(16, (count,), generator=generator), torch.rand(count, generator=generator)
        found.append(torch.where(chance < 0.2, any_byte, table[found[-1], found[-2]]))
    return torch.stack(found, 1)


def loss_of(logits: Tensor, x: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    torch.manual_seed(0)
    model = Bytes()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600, eta_min=1e-3)
    for step in range(600):
        x = lines(step)
        loss_of(model(x), x).backward()
        optimizer.step()
        optimizer.zero_grad()
        slower.step()
    return model


def retrained(dense: nn.Module, method: Any, teach: bool) -> tuple[float, list[float]]:
    """Loss on unseen lines after 200 steps on four batches, and how many mask entries flipped in every step."""
    model = copy.deepcopy(dense)
    add = distillation(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    trainer = rarefy.sparse_training(model, optimizer, method, pattern="2:4", total_steps=200, ignore=["out"])
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    flips, before = [], [s.mask.clone() for s in trainer.run.states]
    for step in range(200):
        x = lines(1000 + step % 4)
        logits = model(x)
        loss = loss_of(logits, x)
        (add(loss, logits, x) if teach else loss).backward()
        trainer.step()
        trainer.zero_grad()
        slower.step()
        now = [s.mask.clone() for s in trainer.run.states]
        flips.append(sum(float((a != b).sum()) for a, b in zip(before, now, strict=True)))
        before = now
    assert all(NM(2, 4).allows(s.weight.parameter != 0) for s in trainer.run.states)
    with torch.no_grad():
        return sum(float(loss_of(model(lines(s)), lines(s))) for s in range(5000, 5008)) / 8, flips


def settles_below(dense: nn.Module, method: Any, rival: float) -> None:
    value, flips = retrained(dense, method, teach=True)
    assert value < 0.95 * rival
    assert sum(flips[-20:]) < sum(flips[:20]) / 5


def test_the_loss_is_below_that_of_a_frozen_mask_and_the_masks_settle(dense: nn.Module) -> None:
    frozen, _ = retrained(dense, static(start="magnitude", pattern=NM(2, 4)), teach=False)
    settles_below(dense, ast_slorb(every=1, decay=6e-2, ramp=0.3, block=8), frozen)
    with pytest.raises(AssertionError):  # the impostor: the same distillation, the mask frozen
        settles_below(dense, static(start="magnitude", pattern=NM(2, 4)), frozen)


def test_bad_input_and_a_missing_end() -> None:
    with pytest.raises(SparsityError, match="ramp=0"):
        ast_slorb(ramp=0.0)
    with pytest.raises(SparsityError, match="block 0"):
        ast_slorb(block=0)
    model = nn.Linear(8, 4)
    with pytest.raises(SparsityError, match="total_steps is missing"):
        rarefy.sparse_training(model, torch.optim.SGD(model.parameters(), lr=0.1), "ast-slorb")
    assert type(model) is nn.Linear and STEPS == 24


def test_weights_without_an_adapter_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 2), nn.Flatten(), nn.Linear(8, 8))
    with pytest.warns(UserWarning, match="adapters are for nn.Linear only, so 0 get none; give adapter=False"):
        rarefy.sparse_training(model, torch.optim.SGD(model.parameters(), lr=0.1), "ast-slorb", total_steps=20)
    assert isinstance(model[2], SLoRBLinear) and type(model[0]) is nn.Conv2d
