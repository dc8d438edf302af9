"""Small encoders of transformers with random weights, pruned, and the graphs that programs are put into."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from rarefy.core.quantized import quantize_weight
from rarefy.core.site import find_sites
from rarefy.engine import fuse_attention
from rarefy.engine.capture import as_example, capture
from rarefy.engine.fuse import rewrite
from rarefy.engine.input_scales import input_scales
from rarefy.engine.plan import LayerPlan
from rarefy.engine.program import with_programs
from rarefy.ops import candidates, pack

_SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 80}
_ANY = 1 << 30  # tokens


@pytest.fixture(autouse=True)
def _attention_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program computes is tested here, not how fast this machine is today."""
    monkeypatch.setattr(fuse_attention, "_time", lambda *sizes: True)


def encoder(kind: str) -> nn.Module:
    """A model of two layers, seeded, with 70 % zeros in its linear layers."""
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    made = {
        "bert": lambda: t.BertModel(t.BertConfig(**_SIZES, vocab_size=99, max_position_embeddings=64)),
        "roberta": lambda: t.RobertaModel(
            t.RobertaConfig(**_SIZES, vocab_size=99, max_position_embeddings=70, pad_token_id=1)
        ),
        "distilbert": lambda: t.DistilBertModel(
            t.DistilBertConfig(dim=48, n_layers=2, n_heads=3, hidden_dim=80, vocab_size=99)
        ),
        "vit": lambda: t.ViTModel(t.ViTConfig(**_SIZES, image_size=32, patch_size=8)),
        "vit classifier": lambda: t.ViTForImageClassification(t.ViTConfig(**_SIZES, image_size=32, patch_size=8)),
        "bert classifier": lambda: t.BertForSequenceClassification(t.BertConfig(**_SIZES, vocab_size=99)),
    }
    model: nn.Module = made[kind]().eval()
    with torch.no_grad():
        for site in find_sites(model)[0]:
            if isinstance(site.module, nn.Linear):
                site.parameter.mul_(4.0 * (torch.rand_like(site.parameter) < 0.3))
    return model


def inputs(kind: str, batch: int, tokens: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """What the model is called with: an image, or ids whose later rows are padded more."""
    generator = torch.Generator().manual_seed(seed)
    if kind.startswith("vit"):
        return {"pixel_values": torch.randn(batch, 3, 32, 32, generator=generator)}
    ids = torch.randint(3, 90, (batch, tokens), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(batch):
        mask[row, max(1, tokens - 2 * row) :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def plans(model: nn.Module, stored: str = "fp32", data: Any = None) -> dict[str, LayerPlan]:
    """Every linear layer packed; stored: "fp32" or "int8" (then with 8-bit inputs, of known scales with data)."""
    sites = [s for s in find_sites(model)[0] if isinstance(s.module, nn.Linear)]
    scales = {} if data is None else input_scales(model, sites, data)
    out = {}
    for site in sites:
        weight: Any = site.parameter.detach()
        weight = weight if stored == "fp32" else quantize_weight(weight)
        names = candidates(weight, 64, stored, stored)  # of one family, so that all round in the same way
        kernel = next((name for name in names if name.startswith("block8")), names[0])
        out[site.name] = LayerPlan(site, ((_ANY, pack(weight, kernel, input_scale=scales.get(site.name))),))
    return out


def graphs(model: nn.Module, example: Any, packed: dict[str, LayerPlan]) -> tuple[torch.fx.GraphModule, Callable]:
    """(with programs, without)"""
    made = []
    for _ in range(2):
        graph, done = rewrite(capture(model, as_example(example)), packed, dict.fromkeys(packed, 1))
        assert len(done) == len(packed)
        made.append(graph)
    with_programs(made[0])
    return made[0], made[1]


def tensors(output: Any) -> list[torch.Tensor]:
    return [x for x in output.values() if isinstance(x, torch.Tensor)] if hasattr(output, "values") else [output]
