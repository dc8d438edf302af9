import json

import pytest
import torch

from contracts.models import perceptron
from rarefy.pruning import prune


def test_counts_bytes_and_names() -> None:
    case = perceptron()
    report = prune(case.model, "wanda", sparsity=0.5, data=case.batches, ignore=["4"])
    assert (report.method, report.pattern, report.allocation) == ("wanda", "rowwise", "uniform")
    assert report.dense_bytes == 4 * (16 * 32 + 32 * 32)
    assert report.sparse_bytes == 4 * (16 * 32 + 32 * 32) // 2 + 32 * (2 + 8) + 32 * (4 + 8)
    assert report.sparsity == 0.5
    assert report.seconds > 0
    json.dumps(report.to_dict())


def test_the_error_is_the_relative_error_of_the_layers_output() -> None:
    case = perceptron()
    x = torch.cat(case.batches)
    before = case.model[0].weight.detach().clone()
    report = prune(case.model, "sparsegpt", sparsity=0.5, data=case.batches)
    change = x @ (before - case.model[0].weight.detach()).t()
    wanted = change.square().sum() / (x @ before.t()).square().sum()
    assert report.sites[0].error == pytest.approx(wanted.item(), rel=1e-3)


def test_it_prints_every_layer_and_the_total() -> None:
    case = perceptron()
    said = str(prune(case.model, "sparsegpt", sparsity=0.5, data=case.batches, ignore=["4"]))
    assert "damping=0.01" in said
    assert "left alone: ignored as asked" in said
    assert "sparsegpt, layerwise, uniform: 50.00% zeros in 2 layers" in said
