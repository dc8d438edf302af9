"""The order that the literature reports, at 60 % zeros of a real language model, by `rarefy.compare`.

A small evaluation: 12 calibration windows and 24 unseen ones of 256 bytes of SciFact; `benchmarks/quality` has the
large one. All methods are measured on the same text, so they differ by more than the evaluation's own noise.
"""

import json
from pathlib import Path

import pytest
import torch

import rarefy
from rarefy.recipes.comparison import Comparison
from rarefy.recipes.evaluations.language import Perplexity, batches_of, next_token_loss, windows

DATA = Path(__file__).parents[3] / "shared" / "data"
MODEL = DATA / "weights" / "llama-4m-bytes"
pytestmark = pytest.mark.skipif(not MODEL.is_dir(), reason="the shared data folder is not beside this checkout")

METHODS = {
    "random": "random",
    "magnitude": "magnitude+pattern=rowwise",
    "wanda": "wanda",
    "reconstructed": "wanda+repair=weights",
    "sparsegpt": "sparsegpt+columns=64",
}


@pytest.fixture(scope="module")
def bits() -> dict[str, float]:
    """Bits a byte of each method at 60 %, and of the dense model."""
    lines = (DATA / "scifact" / "corpus.jsonl").read_text("utf-8").splitlines()[:1500]
    rows = [json.loads(line) for line in lines]
    raw = bytearray("\n".join(f"{row['title']}\n{row['text']}" for row in rows).encode())
    text = torch.frombuffer(raw, dtype=torch.uint8).long()
    seen, unseen = text[: len(text) // 2], text[len(text) // 2 :]
    found: Comparison = rarefy.compare(
        rarefy.load(MODEL),
        METHODS,
        sparsity=0.6,
        data=lambda seed: batches_of(windows(seen, 256, 12, seed)),
        evaluate=Perplexity(windows(unseen, 256, 24)),
        loss=next_token_loss,
        ignore=["lm_head"],
    )
    assert not [outcome.error for outcome in found.cells.values() if outcome.error]
    means = {m: found.spread(m, found.conditions[0], "bits_per_byte") for m in found.methods}
    return {"dense": found.dense["bits_per_byte"]} | {m: s.mean for m, s in means.items() if s is not None}


def test_sparsegpt_is_best_then_wanda_then_magnitude_then_chance(bits: dict[str, float]) -> None:
    assert bits["dense"] < bits["sparsegpt"] < bits["wanda"] < bits["magnitude"] < bits["random"]


def test_what_the_kept_weights_are_refitted_to_is_worth_it(bits: dict[str, float]) -> None:
    assert bits["reconstructed"] < bits["wanda"]
