"""Whole models as native programs: sizes, masks and ids of any kind, against the model in torch."""

import random
from functools import cache
from typing import Any

import torch
import transformers
from draw import normal, refusals, seeded, size, threads
from torch import Tensor, nn

from rarefy.core.quantized import quantize_weight
from rarefy.core.site import find_sites
from rarefy.engine import fuse_attention
from rarefy.engine.capture import as_example, capture
from rarefy.engine.fuse import rewrite
from rarefy.engine.plan import LayerPlan
from rarefy.engine.program import Refused, in_parts, with_programs
from rarefy.ops import candidates, pack

fuse_attention._time = lambda *sizes: True  # what is computed is fuzzed, not what is fastest
_SIZES = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 80}
_WORDS, _PLACES = 99, 64


class Net(nn.Module):
    """Two inputs that meet in additions, products, norms and layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(37, 64), nn.Linear(64, 37)
        self.norm, self.row = nn.LayerNorm(37), nn.Parameter(torch.randn(37))

    def forward(self, x: Tensor, y: Tensor) -> Any:
        z = torch.nn.functional.silu(x) * y + self.row
        out = self.second(torch.nn.functional.gelu(self.first(z)))
        return out, self.norm(out + x) + y


def _bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(**_SIZES, vocab_size=_WORDS, max_position_embeddings=_PLACES))


@cache
def _made(kind: str, stored: str) -> tuple[nn.Module, list[nn.Module]]:
    """(the model, graphs whose steps are native: of the whole batch, and of parts of it)"""
    torch.manual_seed(0)
    model = (Net() if kind == "net" else _bert()).eval()
    sites = [s for s in find_sites(model)[0] if isinstance(s.module, nn.Linear)]
    plans = {}
    with torch.no_grad():
        for site in sites:
            site.parameter.mul_(3.0 * (torch.rand_like(site.parameter) < 0.3))
            weight: Any = site.parameter.detach()
            weight = weight if stored == "fp32" else quantize_weight(weight)
            plans[site.name] = LayerPlan(site, ((1 << 30, pack(weight, candidates(weight, 64, stored, stored)[0])),))
    example: Any = (torch.randn(3, 5, 37), torch.randn(3, 5, 37)) if kind == "net" else _ids(random.Random(0), 3, 10)
    graph, _ = rewrite(capture(model, as_example(example)), plans, dict.fromkeys(plans, 1))
    assert with_programs(graph) >= 1
    parts = [in_parts(graph, n) for n in (1, 2, 3)]
    assert all(part is not None for part in parts)
    return model, [graph, *(part for part in parts if part is not None)]


def _ids(rng: random.Random, batch: int, tokens: int) -> dict[str, Tensor]:
    ids = torch.randint(0, _WORDS, (batch, tokens), generator=seeded(rng))
    return {"input_ids": ids, "attention_mask": (torch.rand(batch, tokens, generator=seeded(rng)) < 0.8).long()}


def case(rng: random.Random) -> None:
    threads(rng)
    stored = rng.choice(("fp32", "int8"))
    with torch.inference_mode():
        if rng.random() < 0.4:
            _net(rng, stored)
        else:
            _encoder(rng, stored)


def _net(rng: random.Random, stored: str) -> None:
    model, graphs = _made("net", stored)
    graph = rng.choice(graphs)
    shape = (size(rng, 9, 1), size(rng, 70, 1))
    x, y = normal(rng, *shape, 37), normal(rng, *shape, 37)
    if rng.random() < 0.2:  # sizes that disagree
        y = y[:, : rng.randint(0, shape[1])]
        y = y if rng.random() < 0.5 else y[..., : rng.randint(0, 37)]
    try:
        got = graph(x, y)
    except (Refused, AssertionError, RuntimeError):
        assert x.shape != y.shape
        return
    for one, other in zip(got, model(x, y), strict=True):
        _close(one, other, stored)


def _encoder(rng: random.Random, stored: str) -> None:
    model, graphs = _made("bert", stored)
    graph = rng.choice(graphs)
    call = _ids(rng, size(rng, 6, 1), size(rng, _PLACES, 1))
    call["attention_mask"][:, 0] = 1
    if rng.random() < 0.2:
        call["input_ids"].view(-1)[rng.randrange(call["input_ids"].numel())] = rng.choice(
            (-1, _WORDS, 2**31, -(2**63), 2**62)
        )
        with refusals():
            graph(**call)
            raise AssertionError("an id outside the vocabulary was taken")
        return
    if rng.random() < 0.1:
        call["attention_mask"] = call["attention_mask"][:, : rng.randint(0, call["input_ids"].shape[1])]
        fits = call["attention_mask"].shape == call["input_ids"].shape
        try:
            graph(**call)
        except (Refused, AssertionError, RuntimeError):
            assert not fits
            return
        assert fits
    _close(graph(**call).last_hidden_state, model(**call).last_hidden_state, stored)


def _close(got: Tensor, want: Tensor, stored: str) -> None:
    assert got.shape == want.shape and got.isfinite().all()
    off = (got - want).abs()
    if stored == "fp32":
        assert not (off > 2e-4 * (1 + want.abs())).any(), f"off by {off.max():.2e}"
    elif got.numel() > 400:  # roundings add up, but not to another answer
        assert off.mean() < 0.2 * want.abs().mean() + 0.02, f"off by {off.mean():.2e}"
