"""Selectors that keep an exact count are captured with the model that they stand in."""

from collections.abc import Callable

import pytest
import torch

import rarefy
from transformers_tiny import ids, tiny


@pytest.mark.parametrize("method", ["lazy-neuron-topk", "wina"])
def test_a_pruned_encoder_that_keeps_exact_counts_is_captured(method: str, prefer: Callable[..., None]) -> None:
    prefer("graph", "sparse")
    model, x = tiny("Bert"), {"input_ids": ids(2, 16)}
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    rarefy.sparsify_activations(model, method, sparsity=0.5, data=[ids(8, 16)])
    with torch.no_grad():
        fast = rarefy.compile(model, x)
        assert "graph: captured" in str(fast.explain())
        for text in (x, {"input_ids": ids(3, 11)}):
            wanted, got = model(**text), fast(**text)
            torch.testing.assert_close(got.last_hidden_state, wanted.last_hidden_state, rtol=1e-4, atol=1e-5)
