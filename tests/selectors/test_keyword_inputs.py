"""Layers that are called with their input by name are selected, watched, measured and compiled as the others."""

import copy

import pytest
import torch
from torch import Tensor, nn

import rarefy
from rarefy.activations.deja_vu import DejaVu
from rarefy.activations.penalty import L1, ActivationPenalty
from rarefy.activations.q_sparse import QSparse
from rarefy.activations.rank_aware import replace_module
from rarefy.core.calls import take_off
from rarefy.selectors import InputSelector, TopK, detach, select_inputs
from rarefy.selectors.rank_aware import RankAware


class GatedLayer(nn.Module):
    """A feed-forward layer as in Llama; `named` calls its projections by keyword."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 16)
        self.act_fn, self.named = nn.SiLU(), named

    def _apply_to(self, layer: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = layer(input=x) if self.named else layer(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        gate = self.act_fn(self._apply_to(self.gate_proj, x))
        return x + self._apply_to(self.down_proj, gate * self._apply_to(self.up_proj, x))


def twins() -> tuple[nn.Module, nn.Module]:
    """The same model twice: with inputs by position, and by name."""
    torch.manual_seed(0)
    plain = nn.ModuleDict({"layers": nn.Sequential(GatedLayer(False), GatedLayer(False))})["layers"].eval()
    named = copy.deepcopy(plain)
    for layer in named:
        layer.named = True
    return plain, named


X = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["teal", "r-sparse", "cats"])
def test_training_free_methods_see_them(method: str) -> None:
    plain, named = twins()
    options = {"rho": 0.7} if method == "r-sparse" else {}
    reports = [rarefy.sparsify_activations(m, method, sparsity=0.5, data=[X], **options) for m in (plain, named)]
    assert reports[0] == reports[1] and abs(reports[1].sparsity - 0.5) < 0.2
    assert torch.equal(plain(X), named(X))
    sparse = named(X)
    assert detach(named) and not torch.equal(named(X), sparse)


def test_predictors_penalties_and_straight_through_selectors_see_them() -> None:
    plain, named = twins()
    for model in (plain, named):
        DejaVu(0.5, rank=4, steps=3).apply(model, [X], [X])
    assert torch.equal(plain(X), named(X))
    found = []
    for model in (plain, named):
        detach(model)
        QSparse(0.5, squared=False).apply(model)
        with ActivationPenalty(model, L1(), 0.5) as penalty:
            (model(X).square().mean() + penalty.loss()).backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)) and torch.equal(plain(X), named(X))


def test_what_is_dropped_passes_through_the_low_rank_part() -> None:
    plain, named = twins()
    for model in (plain, named):
        layer = model[0].up_proj
        select_inputs(layer, TopK(4))
        u, s, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
        replace_module(model, "0.up_proj", RankAware.of(layer, u, s[:, None] * v))  # of full rank: nothing is lost
    whole, _ = twins()
    assert torch.equal(plain(X), named(X)) and torch.allclose(named(X), whole(X), atol=1e-5)


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_compiled_they_compute_the_same(sparsity: float) -> None:
    _, named = twins()
    rarefy.prune(named, "magnitude", sparsity=sparsity, measure=False)
    for layer in named:
        select_inputs(layer.down_proj, TopK(7))
    fast = rarefy.compile(named, X, measure=False)
    assert torch.allclose(fast(X), named(X), atol=1e-5)
    assert "unexpected keyword" not in str(rarefy.compile(named, X).explain())


def test_a_convolution_may_be_called_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(input=x)
            return out

    model, x = Named().eval(), torch.randn(1, 4, 8, 8)
    rarefy.prune(model, "magnitude", sparsity=0.9, measure=False)
    fast = rarefy.compile(model, x)
    assert torch.allclose(fast(x), model(x), atol=1e-5) and "unexpected keyword" not in str(fast.explain())


def test_hooks_that_are_taken_off_leave_nothing_behind() -> None:
    layer = nn.Linear(4, 2)
    select_inputs(layer, TopK(1))
    other = layer.register_forward_hook(lambda module, args, out: out)
    assert [type(hook) for hook in take_off(layer, lambda hook: isinstance(hook, InputSelector))] == [InputSelector]
    assert not layer._forward_pre_hooks and not layer._forward_pre_hooks_with_kwargs and layer._forward_hooks
    other.remove()
