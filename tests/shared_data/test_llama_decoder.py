"""The real byte-level model in the decoder runtime: the source's own text, and what narrower types cost."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import rarefy
from rarefy.core.errors import EngineError
from rarefy.engine import CompiledDecoder

DATA = Path(__file__).parents[3] / "shared" / "data"
MODEL = DATA / "weights" / "llama-4m-bytes"
pytestmark = pytest.mark.skipif(not MODEL.is_dir(), reason="the shared data folder is not beside this checkout")


@pytest.fixture(scope="module")
def model() -> Any:
    transformers = pytest.importorskip("transformers")
    loaded = transformers.LlamaForCausalLM.from_pretrained(MODEL).eval()
    rarefy.prune(loaded, "magnitude", sparsity=0.5, ignore=["lm_head"], measure=False)
    return loaded


@pytest.fixture(scope="module")
def text() -> Tensor:
    """(40, 128) bytes of the held-out end of SciFact."""
    lines = [json.loads(line) for line in (DATA / "scifact" / "corpus.jsonl").read_text("utf-8").splitlines()[-80:]]
    raw = "\n".join(f"{row['title']}\n{row['text']}" for row in lines).encode()
    return torch.frombuffer(bytearray(raw[: 40 * 128]), dtype=torch.uint8).long().view(40, 128)


@torch.inference_mode()
def bits_per_byte(model: Any, windows: Tensor) -> float:
    logits = model(input_ids=windows).logits[:, :-1]
    return float(F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())) / math.log(2)


def compiled(model: Any, **types: str) -> CompiledDecoder:
    fast = rarefy.compile(model, {"input_ids": torch.zeros(1, 32, dtype=torch.long)}, measure=False, **types)
    assert isinstance(fast, CompiledDecoder), fast.explain().notes
    return fast


def test_greedy_text_is_the_sources_own_byte_for_byte(model: Any, text: Tensor) -> None:
    fast = compiled(model)
    for prompt in (text[:1, :40], text[:4, :64]):
        kwargs = {"max_new_tokens": 120, "do_sample": False}
        assert torch.equal(fast.generate(prompt, **kwargs), model.generate(prompt, **kwargs))


@pytest.mark.parametrize(
    ("types", "most"),
    [
        ({}, 1e-5),
        ({"weights": "bf16"}, 2e-4),
        ({"weights": "int8"}, 2e-3),
        ({"weights": "int8", "activations": "int8"}, 5e-3),
        ({"weights": "int4"}, 0.15),
    ],
)
def test_what_a_type_costs_in_bits_per_byte(model: Any, text: Tensor, types: dict[str, str], most: float) -> None:
    try:
        fast = compiled(model, **types)
    except EngineError as error:
        pytest.skip(f"no such kernel here: {error}")
    before, after = bits_per_byte(model, text), bits_per_byte(fast, text)
    assert abs(after - before) < most
    cache = fast.cache(2, 128)
    steps = [fast(input_ids=text[:2, i : i + 1], past_key_values=cache).logits for i in range(64)]
    far = torch.cat(steps, 1) - fast(input_ids=text[:2, :64]).logits
    assert far.abs().max() < (0.02 if types.get("activations") != "int8" else 2.0)
