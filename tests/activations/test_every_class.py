"""Every class of models by every training-free way: saved, loaded, compiled, it writes the same; at 0 it is dense."""

from pathlib import Path
from typing import Any

import pytest
import torch

import rarefy
from rarefy.engine import CompiledDecoder
from rarefy.ops import available
from transformers_tiny import PARTS, ids, output, tiny

TEAL: dict[str, Any] = {"allocation": "uniform"}
CASES: list[tuple[str, str, dict[str, Any]]] = [(kind, "teal", TEAL) for kind in PARTS]
CASES += [("Qwen2", "cats", {}), ("Qwen3", "chess", {}), ("Mistral", "larosa", {}), ("GPT2", "r-sparse", {"rho": 0.7})]
CASES += [("OPT", "wina", TEAL), ("GPT2", "lazy-neuron-topk", {}), ("Mistral", "wina", TEAL | {"rotate": True})]
TEXT = [{"input_ids": ids(4, 40, seed)} for seed in (1, 2)]


@pytest.mark.parametrize(("kind", "method", "options"), CASES, ids=[f"{k}-{m}" for k, m, _ in CASES])
def test_the_way_to_a_compiled_model_changes_nothing(
    tmp_path: Path, kind: str, method: str, options: dict[str, Any]
) -> None:
    model = tiny(kind)
    rarefy.sparsify_activations(model, method, sparsity=0.5, data=TEXT, **options)
    rarefy.save(model, tmp_path)
    again = rarefy.load(tmp_path)
    wanted = output(model, ids())
    assert torch.equal(output(again, ids()), wanted)
    fast = rarefy.compile(again, {"input_ids": ids()}, measure=False)
    torch.testing.assert_close(output(fast, ids()), wanted, rtol=1e-4, atol=1e-5)
    if hasattr(model, "generate") and "lm_head" in dict(model.named_modules()):
        assert isinstance(fast, CompiledDecoder) or not available()
        settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
        assert torch.equal(fast.generate(ids(2, 6), **settings), model.generate(ids(2, 6), **settings))


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("method", ["teal", "cats", "lazy-neuron-topk"])
def test_a_share_of_nothing_is_dense(kind: str, method: str) -> None:
    model = tiny(kind)
    dense = output(model, ids())
    options = TEAL if method == "teal" else {}
    report = rarefy.sparsify_activations(model, method, sparsity=0.0, data=TEXT, **options)
    assert report.sparsity == 0.0 and torch.equal(output(model, ids()), dense)
