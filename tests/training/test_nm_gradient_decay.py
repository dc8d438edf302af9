"""What is pruned fades out: the weights seen, the gradients, the patterns in between, and the end."""

import math

import pytest
import torch

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import ShapeError, SparsityError, UnknownNameError
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.method import SparseMethod
from rarefy.training.nm_gradient_decay import Fade, nm_gradient_decay, tightening
from rarefy.training.sr_ste import sr_ste
from training.loops import adam, mlp, sgd, start, train


def test_the_fade_is_one_then_falls_then_is_nothing() -> None:
    linear, exponential = Fade(0.1, 0.6), Fade(0.1, 0.6, 5.0)
    assert [linear(t, 100) for t in (0, 10, 35, 60, 99)] == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])
    assert exponential(35, 100) == pytest.approx(math.exp(-2.5)) and exponential(60, 100) == 0.0


def fades(method: SparseMethod) -> None:
    import rarefy

    task = mlp()
    trainer = rarefy.sparse_training(task.model, adam(task.model), method, total_steps=40)
    shares = []
    for _ in train(task, trainer, 40):
        state = trainer.run.states[1]
        shown, dense = state.weight.parameter.detach(), state.value()
        assert torch.equal(shown[state.mask], dense[state.mask])
        shares.append(float((shown / dense)[~state.mask].mean()))
    assert shares[20] == pytest.approx(1 - (21 - 4) / 26, abs=1e-5)  # from step 4 to 30
    assert shares[35] == 0.0
    assert bool((trainer.run.states[1].mask.reshape(-1, 16).sum(1) == 1).all())


def test_the_forward_pass_sees_what_the_formula_says() -> None:
    real = nm_gradient_decay(pattern=NM(1, 16), kind="linear", begin=0.1, end=0.75)
    assert_beats_impostor(fades, real, sr_ste(pattern=NM(1, 16)))


@pytest.mark.parametrize("scaled", [True, False])
def test_gradients_of_pruned_weights_are_scaled_or_pass(scaled: bool) -> None:
    task = mlp()
    trainer, optimizer = start(
        task, "nm-gradient-decay", sgd, pattern="2:4", kind="linear", begin=0.0, end=0.5, scaled=scaled, total_steps=40
    )
    for group in optimizer.param_groups:
        group["weight_decay"] = group["momentum"] = 0.0
    list(train(task, trainer, 8))
    state = trainer.run.states[1]
    before, mask = state.value().clone(), state.mask.clone()
    task.loss(8).backward()
    raw = state.grad().clone()
    trainer.step()
    moved = (before - state.value()) / 0.05
    expected = torch.where(mask, raw, raw * (1.0 - 8 / 20)) if scaled else raw
    assert torch.allclose(moved, expected, atol=1e-5)


def test_patterns_tighten_frame_by_frame() -> None:
    assert [str(p) for p in tightening(NM(1, 16), False)] == ["15:16", "8:16", "4:16", "2:16", "1:16"]
    assert [str(p) for p in tightening(NM(3, 8), False)] == ["7:8", "4:8", "3:8"]
    assert [str(p) for p in tightening(NM(1, 4), True)] == ["16:64", "8:32", "4:16", "2:8", "1:4"]
    assert [str(p) for p in tightening(NM(3, 4), False)] == ["3:4"]


def test_structure_decay_keeps_each_pattern_in_its_frame() -> None:
    task = mlp()
    trainer, _ = start(task, "nm-gradient-decay", pattern="1:8", kind="stepwise", begin=0.25, end=0.75, total_steps=40)
    kept = []
    for _ in train(task, trainer, 40):
        kept.append(trainer.run.states[1].mask.reshape(-1, 8).sum(1).unique().tolist())
    assert kept[8] == [8] and kept[9] == [7] and kept[15] == [4] and kept[20] == [2] and kept[25] == [1]
    assert kept[-1] == [1]
    shown = trainer.run.states[1].weight.parameter.detach()
    assert NM(1, 8).allows(shown != 0)


def test_other_patterns_and_kinds_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="kind"):
        nm_gradient_decay(kind="cubic")
    with pytest.raises(SparsityError, match="shares of the steps"):
        nm_gradient_decay(begin=0.5, end=0.5)
    with pytest.raises(ShapeError, match="no N of M to tighten"):
        nm_gradient_decay(kind="stepwise", pattern=Layerwise())
