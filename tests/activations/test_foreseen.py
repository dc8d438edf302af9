"""Predictors: trained ones beat frequencies, a perfect one is exact, and what is kept whole changes nothing."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from activations.tiny import llama, next_loss, opt, text, train
from contracts.impostor import assert_beats_impostor
from rarefy.activations.deja_vu import DejaVu
from rarefy.activations.foreseen_data import seen, speaking
from rarefy.activations.foreseen_layer import attach_oracle
from rarefy.activations.head_places import head_places
from rarefy.activations.polar_sparsity import PolarSparsity, smallest, union_of
from rarefy.activations.predictor import fit_predictor, recall, top
from rarefy.core.errors import DataError, ModelError, SparsityError
from rarefy.selectors import feed_forwards, hidden_selector, input_selector, select_inputs
from rarefy.selectors.foreseen import Foreseen
from rarefy.selectors.positive import Positive

DATA = [{"input_ids": text(32, seed=s)} for s in (1, 2)]
HELD = [{"input_ids": text(16, seed=9)}]


@pytest.fixture(scope="module")
def trained() -> dict[str, nn.Module]:
    torch.set_num_threads(1)
    models = {"llama": llama("relu", layers=3), "opt": opt()}
    for model in models.values():
        train(model, 60)
        model.eval()
    return models


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**HELD[0]).logits
    return found


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_a_perfect_predictor_gives_the_dense_output(trained: dict[str, nn.Module], name: str) -> None:
    model = trained[name]
    wanted = logits(model)
    handles = [h for layer in feed_forwards(model) for h in attach_oracle(layer)]
    try:
        assert torch.equal(logits(model), wanted)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("way", [DejaVu(0.5, heads=0.5, steps=2), PolarSparsity(heads=0.5, steps=2)])
def test_what_is_refused_leaves_nothing_behind(trained: dict[str, nn.Module], way: DejaVu | PolarSparsity) -> None:
    model = trained["llama"]
    taken = select_inputs(head_places(model)[-1].join, Positive())  # the last that is hung
    try:
        with pytest.raises(ModelError, match="selector"):
            way.apply(model, DATA, HELD)
        hooks = [hook for m in model.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]
        assert len(hooks) == 1
    finally:
        taken.remove()


def test_everything_kept_changes_nothing_and_nothing_stays_behind(trained: dict[str, nn.Module]) -> None:
    model = trained["llama"]
    wanted = logits(model)
    found = DejaVu(sparsity=1e-9, heads=1e-9, steps=2).apply(model, DATA, HELD)
    assert {layer.kind for layer in found.layers} == {"neurons", "heads"} and found.recall("heads") == 1.0
    assert torch.equal(logits(model), wanted)
    found.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_is_foreseen_is_more_than_what_is_frequent_and_a_layer_ahead_hardly_worse(
    trained: dict[str, nn.Module],
) -> None:
    found = {}
    for ahead in (False, True):
        found[ahead] = DejaVu(0.75, rank=32, lookahead=ahead).apply(trained["llama"], DATA, HELD)
        found[ahead].remove()

    def check(kind: str) -> None:
        for layer in (*found[False].layers, *found[True].layers):
            assert (layer.recall if kind == "foreseen" else layer.static) > layer.static + 0.3

    assert_beats_impostor(check, "foreseen", "frequent")
    assert found[True].recall("neurons") > found[False].recall("neurons") - 0.03
    assert [layer.source for layer in found[True].layers] == [f"model.layers.{i}.mlp" for i in (0, 0, 1)]
    assert "neurons" in str(found[True])


def test_the_quality_of_the_model_follows_the_choice(trained: dict[str, nn.Module]) -> None:
    model = trained["llama"]
    ids = HELD[0]["input_ids"]
    with torch.no_grad():
        dense = next_loss(model, ids).item()
        found = DejaVu(0.75, rank=32).apply(model, DATA, HELD)
        foreseen = next_loss(model, ids).item()
        for layer in feed_forwards(model):
            selector = hidden_selector(layer.activation)
            assert isinstance(selector, Foreseen)
            assert int(selector._mask.sum(-1).unique()) == 16
            share = selector._mask.float().mean((0, 1))
            frequent = top(share[None], 16)[0]
            selector.choose = lambda x, kept=frequent: kept.expand(*x.shape[:-1], -1)
        static = next_loss(model, ids).item()
    found.remove()
    assert dense - 1e-3 <= foreseen < static


def test_a_head_that_is_not_chosen_adds_nothing_and_the_norms_are_those_of_its_output() -> None:
    model = llama(layers=1).eval()
    head = head_places(model)[0]
    data = seen(model, [], [head], HELD)
    joined = data[f"{head.name} out"]
    norms = head.norms(joined)
    only = torch.zeros_like(joined)
    only[:, 8:16] = joined[:, 8:16]
    assert torch.allclose(norms[:, 1], head.join(only).norm(dim=1), atol=1e-5)
    kept = head.spread(torch.tensor([True, False, False, True]))
    assert kept.tolist() == [True] * 8 + [False] * 16 + [True] * 8
    grouped = head_places(model, grouped=True)[0]
    assert grouped.groups == 2 and grouped.spread(torch.tensor([True, False])).tolist() == [True] * 16 + [False] * 16
    assert bool((speaking(head, joined, 2).sum(1) == 2).all())


class HeadsThatDepend(nn.Module):
    """Joined heads of which a few, told by the input, matter."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.turn = torch.randn(8, 24, generator=generator)

    def sample(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, 24, generator=torch.Generator().manual_seed(seed))
        return x, x @ self.turn.T  # loudness of the 8 heads


def test_routed_heads_lose_less_than_static_and_random_ones() -> None:
    planted = HeadsThatDepend()
    (x, loud), (y, heard) = planted.sample(800, 1), planted.sample(300, 2)
    net = fit_predictor(x, top(loud, 4), rank=0)
    often = top(loud, 4).float().mean(0).expand(300, -1)
    generator = torch.Generator().manual_seed(3)
    scores = {"routed": net(y), "static": often, "random": torch.rand(300, 8, generator=generator)}
    lost = {k: float((heard.exp() * ~top(s, 4)).sum() / heard.exp().sum()) for k, s in scores.items()}
    assert lost["routed"] < 0.25 * min(lost["static"], lost["random"])


def test_the_union_grows_to_the_whole_and_heads_do_not(trained: dict[str, nn.Module]) -> None:
    model = trained["llama"]
    wanted = logits(model)
    found = PolarSparsity(heads=0.5, recall=0.95, full=2 / 3).apply(model, DATA, HELD)
    layer = feed_forwards(model)[1]
    x = seen(model, [layer], [], DATA)[f"{layer.name} in"]
    neurons = next(made for made in found.layers if made.name == layer.name)
    grown = [union_of(neurons, x, batch) for batch in (1, 4, 16, 64)]
    assert all(b >= a for a, b in pairwise(grown)) and grown[0] < 0.85 and grown[-1] > 0.98, grown
    assert neurons.recall > 0.9 and neurons.kept < neurons.total
    heads = [made for made in found.layers if made.kind == "heads"]
    assert len(heads) == 2 and all(made.kept == 1 and made.total == 2 for made in heads)  # the first layer is dense
    got = logits(model)
    assert got.shape == wanted.shape and not torch.equal(got, wanted)
    joined = input_selector(head_places(model)[1].join)
    assert joined is not None and bool((joined._mask.sum(-1) == 16).all())
    found.remove()


def test_a_full_batch_is_dense(trained: dict[str, nn.Module]) -> None:
    model = trained["opt"]
    wanted = logits(model)
    found = PolarSparsity(heads=0.0, recall=0.5, full=0.05).apply(model, DATA, HELD)
    assert torch.equal(logits(model), wanted)
    found.remove()


def test_the_smallest_k_is_smallest() -> None:
    scores, label = torch.randn(50, 20), torch.rand(50, 20) < 0.3
    k = smallest(scores, label, 0.8)
    assert recall(top(scores, k), label) >= 0.8 > recall(top(scores, k - 1), label)
    assert smallest(scores, torch.zeros(50, 20, dtype=torch.bool), 1.0) == 0


def test_what_cannot_be_is_said(trained: dict[str, nn.Module]) -> None:
    with pytest.raises(ModelError, match="not ReLU"):
        PolarSparsity().apply(llama(), DATA, HELD)
    with pytest.raises(SparsityError, match="positive"):
        DejaVu(rank=0)
    with pytest.raises(SparsityError, match="leave nothing to foresee"):
        DejaVu(sparsity=0.0)
    with pytest.raises(SparsityError, match="leave nothing to route"):
        PolarSparsity(heads=0.0, neurons=False)
    with pytest.raises(SparsityError, match="polar-sparsity: rank=64 and steps=0"):
        PolarSparsity(steps=0)
    with pytest.raises(SparsityError, match="recall"):
        PolarSparsity(recall=0.0)
    with pytest.raises(DataError, match="two tokens"):
        fit_predictor(torch.zeros(1, 3), torch.zeros(1, 2, dtype=torch.bool), rank=1)
    with pytest.raises(ModelError, match="has not run"):
        Foreseen(lambda x: x > 0, 3).mask(torch.zeros(2, 3))
    with pytest.raises(ModelError, match="num_attention_heads"):
        head_places(nn.Linear(2, 2))


def test_predictors_are_trained_under_inference_mode_too(trained: dict[str, nn.Module]) -> None:
    model, found = trained["llama"], []
    for inside in (True, False):
        with torch.inference_mode(inside):
            found.append(DejaVu(0.5, rank=4, steps=3).apply(model, DATA, HELD))
        found[-1].remove()
    for a, b in zip(found[0].layers, found[1].layers, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.predictor.parameters(), b.predictor.parameters(), strict=True))
    with pytest.raises(ModelError, match=r"no predictor of 'heads' was trained; there are those of \['neurons'\]"):
        found[0].recall("heads")


def test_text_is_tokenized_before() -> None:
    for model in (llama(), opt()):
        with pytest.raises(DataError, match=r"data\[0\]: \w+ does not take this batch, which is text; tokenize it"):
            DejaVu(rank=4, steps=2).apply(model, ["to be"], ["or not"])
