"""Density by layer, token and batch; PPL-p% sparsity; the laws of density over training data."""

import pytest
import torch
from torch import nn

import rarefy
from activations.tiny import llama, next_loss, text, train
from contracts.impostor import assert_beats_impostor
from rarefy.analysis.activation_stats import activation_stats, growth, union_share
from rarefy.analysis.sparsing_law import cett, ppl_sparsity
from rarefy.analysis.sparsity_growth import ReLUDensityLaw, SiLUDensityLaw
from rarefy.core.errors import DataError, ModelError, SparsityError
from rarefy.selectors import feed_forwards

BATCHES = [{"input_ids": text(seed=s)} for s in (1, 2)]


def test_the_union_is_that_of_all_draws() -> None:
    active = torch.rand(6, 40, generator=torch.Generator().manual_seed(0)) < 0.2
    for drawn in (1, 2, 3):
        every = torch.combinations(torch.arange(6), drawn)
        wanted = active[every].any(1).double().mean()
        assert union_share(active.sum(0), 6, drawn) == pytest.approx(float(wanted))
    assert union_share(active.sum(0), 6, 6) == pytest.approx(float(active.any(0).double().mean()))


def test_the_stats_are_those_of_a_hand_count_without_padding() -> None:
    model = llama("relu")
    mask = torch.ones(8, 24, dtype=torch.long)
    mask[:, 20:] = 0
    batch = {"input_ids": text(), "attention_mask": mask}
    stats = rarefy.activation_stats(model, [batch])
    assert stats.tokens == 8 * 20
    down = feed_forwards(model)[0].down
    seen = []
    hook = down.register_forward_pre_hook(lambda m, a: seen.append(a[0][:, :20] != 0))
    with torch.no_grad():
        model(**batch)
    hook.remove()
    found = stats.layers["model.layers.0.mlp.down_proj"]
    assert found.density == pytest.approx(float(seen[0].double().mean()))
    assert found.spread[0] == pytest.approx(float(seen[0].double().mean(-1).min()))
    assert found.never == pytest.approx(float((~seen[0].any(0).any(0)).double().mean()))
    assert found.union[1] == pytest.approx(found.density) and found.union[64] > found.union[8] > found.union[1]
    assert growth(stats, "down_proj")[1] < 0.7 < growth(stats, "q_proj")[1]
    assert "down_proj" in str(stats) and "of  64" in str(stats)


def test_a_smooth_model_is_dense_until_a_bound_is_given() -> None:
    def check(above: float) -> None:
        stats = activation_stats(llama(), BATCHES, above=above)
        assert stats.layers["model.layers.1.mlp.down_proj"].density < 0.9

    assert_beats_impostor(check, 0.01, 0.0)
    with pytest.raises(SparsityError, match="negative"):
        activation_stats(llama(), BATCHES, above=-1.0)
    with pytest.raises(ModelError, match="is not there"):
        activation_stats(llama(), BATCHES, layers=["nowhere"])
    with pytest.raises(DataError, match="empty"):
        activation_stats(llama(), [])
    assert activation_stats(nn.Sequential(nn.Linear(4, 4)), [torch.eye(4)], layers=["0"]).density == 0.25


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.set_num_threads(1)
    model = llama("relu")
    train(model, 60)
    with torch.no_grad():  # neurons whose output vectors differ in length, as those of large models do
        for layer in feed_forwards(model):
            scale = torch.logspace(-0.7, 0.7, layer.down.in_features)
            layer.down.weight.mul_(scale)
            layer.up.weight.div_(scale[:, None])
    return model


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return next_loss(model, batch["input_ids"])


def test_the_price_is_met_and_more_may_be_dropped_at_a_higher_one(trained: nn.Module) -> None:
    found = [ppl_sparsity(trained, BATCHES, loss, rise=rise) for rise in (0.003, 0.01, 0.025)]
    for one, rise in zip(found, (0.003, 0.01, 0.025), strict=True):
        assert one.ratio == pytest.approx(1 + rise, abs=1e-3)
    assert found[0].sparsity < found[1].sparsity < found[2].sparsity
    assert not any(m._forward_pre_hooks for m in trained.modules())


def test_norms_let_more_neurons_go_at_the_same_price(trained: nn.Module) -> None:
    plain = ppl_sparsity(trained, BATCHES, loss, norms=False)

    def check(norms: bool) -> None:
        assert ppl_sparsity(trained, BATCHES, loss, norms=norms).sparsity > plain.sparsity + 0.01

    assert_beats_impostor(check, True, False)


def test_cett_is_the_relative_length_of_what_is_lost() -> None:
    weight, hidden = torch.eye(2), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert cett(hidden, weight, torch.tensor([True, False])) == pytest.approx(0.3)


def test_a_short_last_batch_weighs_as_much_as_its_tokens(trained: nn.Module) -> None:
    ids = text(9, seed=1)
    batches = [{"input_ids": part} for part in (ids[:8], ids[8:])]
    found = ppl_sparsity(trained, batches, loss)
    whole = ppl_sparsity(trained, [{"input_ids": ids}], loss, tokens=9 * 24)
    dense = float(loss(trained, {"input_ids": ids}))
    downs = {name: module for name, module in trained.named_modules() if name in found.thresholds}
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, t=found.thresholds[name]: (args[0] * (args[0].abs() * m.weight.norm(dim=0) > t),)
        )
        for name, module in downs.items()
    ]
    with torch.no_grad():
        ratio = float(torch.exp(loss(trained, {"input_ids": ids}) - dense))
    for handle in handles:
        handle.remove()
    assert found.ratio == pytest.approx(ratio, abs=1e-4)
    assert found.sparsity == pytest.approx(whole.sparsity, abs=0.02)


def test_activations_that_are_no_numbers_name_their_layer() -> None:
    model = llama("relu")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0] = float("nan")
    with pytest.raises(DataError, match=r"data\[0\]: what model.layers.1.mlp.down_proj reads holds NaN"):
        activation_stats(model, BATCHES)


def test_a_price_that_cannot_be_met_is_said(trained: nn.Module) -> None:
    with pytest.raises(SparsityError, match="not positive"):
        ppl_sparsity(trained, BATCHES, loss, rise=0.0)
    with pytest.raises(DataError, match="cannot be"):
        ppl_sparsity(trained, BATCHES, loss, rise=1e9)


def test_the_laws_find_planted_constants() -> None:
    data = torch.logspace(8, 11, 14, dtype=torch.float64)
    relu, silu = ReLUDensityLaw(2e-4, 0.4, -1.2, 0.07), SiLUDensityLaw(120.0, 0.35, 0.45)
    found = ReLUDensityLaw.fit(data, [relu.predict(float(d)) for d in data], starts=8)
    for name in ("c", "alpha", "b", "limit"):
        assert getattr(found, name) == pytest.approx(getattr(relu, name), rel=0.05), name
    risen = SiLUDensityLaw.fit(data, [silu.predict(float(d)) for d in data], starts=8)
    for name in ("c", "alpha", "limit"):
        assert getattr(risen, name) == pytest.approx(getattr(silu, name), rel=0.05), name
    assert risen.predict(1e12) == pytest.approx(silu.predict(1e12), rel=0.01)
    with pytest.raises(DataError, match="at least 5"):
        ReLUDensityLaw.fit([1e9], [0.1])


def test_the_law_of_the_other_activation_does_not_fit() -> None:
    data = torch.logspace(8, 11, 14, dtype=torch.float64)
    falling = [ReLUDensityLaw(2e-4, 0.4, -1.2, 0.07).predict(float(d)) for d in data]

    def check(law: type[ReLUDensityLaw] | type[SiLUDensityLaw]) -> None:
        found = law.fit(data, falling, starts=6)
        for d, wanted in zip(data.tolist(), falling, strict=True):
            assert found.predict(d) == pytest.approx(wanted, rel=0.02)

    assert_beats_impostor(check, ReLUDensityLaw, SiLUDensityLaw)
