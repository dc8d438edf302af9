"""The kinds of layers and models that have to work: convolutions, groups, GPT-2, tied weights, half precision."""

from typing import Any

import pytest
import torch
from torch import nn

from contracts.models import bert, convnet, padded_tokens, perceptron
from contracts.test_every_method import EXACT
from rarefy.core.evidence import Evidence
from rarefy.core.site import find_sites
from rarefy.pruning import prune

METHODS = [entry.id for entry in EXACT]


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    out = model(**batch) if isinstance(batch, dict) else model(batch)
    return (out if isinstance(out, torch.Tensor) else out.logits).float().square().mean()


def call(method: str) -> dict[str, Any]:
    """What every method may be given: a loss, the same density everywhere, few steps where it takes steps."""
    return {"loss": loss, "allocation": "uniform"} | {"maskllm": {"steps": 3}, "synflow": {"rounds": 3}}.get(method, {})


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(4)
    config = GPT2Config(vocab_size=52, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("method", METHODS)
def test_a_decoder_with_transposed_layers_and_a_tied_head(method: str) -> None:
    model, batches = gpt2(), [padded_tokens(s) for s in range(2)]
    report = prune(model, method, sparsity=0.5, data=batches, **call(method))
    assert model.lm_head.weight is model.transformer.wte.weight
    assert {s.name for s in report.sites} == {s.name for s in find_sites(model)[0]}
    assert sum(s.name == "lm_head" for s in report.sites) == 1
    by_name = {s.name: s for s in report.sites}
    assert by_name["transformer.h.0.attn.c_attn"].shape == (48, 16)
    for site in find_sites(model)[0]:
        assert int((site.parameter == 0).sum()) == by_name[site.name].zeros == by_name[site.name].size // 2
    assert model(**batches[0]).logits.isfinite().all()


def test_the_tied_head_may_be_left_alone() -> None:
    model = gpt2()
    before = model.lm_head.weight.detach().clone()
    report = prune(model, "magnitude", sparsity=0.5, ignore=["lm_head"])
    assert report.skipped == {"lm_head": "ignored as asked"}
    assert torch.equal(model.transformer.wte.weight, before)


class SharedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 16)
        self.b = self.a
        self.c = nn.Linear(16, 16)
        self.c.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


@pytest.mark.parametrize("method", METHODS)
def test_shared_weights_are_pruned_once_and_stay_shared(method: str) -> None:
    model = SharedLayer()
    pattern = "1:4" if method == "maskllm" else None
    report = prune(model, method, sparsity=0.75, pattern=pattern, data=[torch.randn(32, 16)], **call(method))
    assert [site.name for site in report.sites] == ["a"]
    assert model.c.weight is model.a.weight
    assert model.b is model.a
    assert int((model.a.weight == 0).sum()) == 192


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_other_precisions_keep_their_type_and_the_count(method: str, dtype: torch.dtype) -> None:
    case = perceptron()
    case.model.to(dtype)
    report = prune(case.model, method, sparsity=0.5, data=[b.to(dtype) for b in case.batches], **call(method))
    assert all(p.dtype is dtype for p in case.model.parameters())
    assert report.sparsity == pytest.approx(0.5)
    assert case.model(case.batches[0].to(dtype)).isfinite().all()


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "reconstruction"])
def test_each_group_of_a_convolution_is_solved_with_its_own_inputs(method: str) -> None:
    """A grouped convolution is pruned as the two convolutions that it stands for."""
    torch.manual_seed(5)
    both = nn.Sequential(nn.Conv2d(8, 12, 3, groups=2, bias=False))
    halves = [nn.Sequential(nn.Conv2d(4, 6, 3, bias=False)) for _ in range(2)]
    x = torch.randn(4, 8, 7, 7) * torch.linspace(0.1, 5, 8)[:, None, None]
    with torch.no_grad():
        for half, part in zip(halves, both[0].weight.chunk(2), strict=True):
            half[0].weight.copy_(part)
    prune(both, method, sparsity=0.5, data=[x])
    for half, part in zip(halves, x.chunk(2, dim=1), strict=True):
        prune(half, method, sparsity=0.5, data=[part])
    expected = torch.cat([half[0].weight for half in halves])
    torch.testing.assert_close(both[0].weight, expected, rtol=1e-4, atol=1e-5)


def test_a_convolution_is_pruned_like_the_linear_layer_on_its_patches() -> None:
    torch.manual_seed(6)
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    x = torch.randn(4, 3, 9, 9)
    linear = nn.Linear(27, 8)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.reshape(8, 27))
    patches = torch.nn.functional.unfold(x, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 27)
    for model, data in ((conv, x), (linear, patches)):
        prune(model, "sparsegpt", sparsity=0.6, data=[data])
    torch.testing.assert_close(conv.weight.reshape(8, 27), linear.weight, rtol=1e-4, atol=1e-5)


def test_a_model_of_one_layer() -> None:
    model = nn.Linear(8, 8)
    assert prune(model, "wanda", sparsity=0.5, data=[torch.randn(4, 8)]).sites[0].zeros == 32


def test_names_of_encoder_layers_are_those_of_the_model() -> None:
    case = bert()
    report = prune(case.model, "wanda", sparsity=0.5, data=case.batches, ignore=["pooler", "re:attention"])
    assert [site.name for site in report.sites] == [
        f"encoder.layer.{i}.{part}.dense" for i in range(2) for part in ("intermediate", "output")
    ]
    assert "pooler.dense" in report.skipped


def test_progress_is_told_after_each_layer() -> None:
    seen: list[tuple[str, int, int]] = []
    prune(convnet().model, "magnitude", sparsity=0.5, progress=lambda *told: seen.append(told))
    assert seen == [("stem", 1, 4), ("depthwise", 2, 4), ("grouped", 3, 4), ("head", 4, 4)]


def test_evidence_of_later_blocks_comes_from_the_pruned_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything before it pruned to zero, a layer without bias sees zero input."""
    from rarefy.pruning import prune as module  # noqa: F401
    from rarefy.solvers.scored import Scored

    seen: dict[str, Evidence] = {}
    honest = Scored.__call__

    def spy(self: Scored, weight: torch.Tensor, pattern: object, density: float, evidence: Evidence) -> object:
        seen[evidence.site] = evidence
        return honest(self, weight, pattern, density, evidence)  # type: ignore[arg-type]

    monkeypatch.setattr(Scored, "__call__", spy)
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(3)))
    prune(model, "wanda", sparsity=0.999, data=[torch.randn(16, 8)])
    sums = {name: sum(float(v.sum()) for v in evidence.values()) for name, evidence in seen.items()}
    assert sums["0"] > 0
    assert sums["1"] == sums["2"] == 0
