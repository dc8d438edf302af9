"""A compiled model is loaded into a fresh one, which is in training mode, as torch makes it."""

import pytest
import torch
from torch import nn

import rarefy


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 64),
        nn.Dropout(),
        nn.Linear(64, 5),
    )


@pytest.mark.parametrize("way", ["graph", "layers", "source"])
def test_a_loaded_model_computes_as_in_evaluation(way, prefer, tmp_path) -> None:
    prefer(way)
    torch.manual_seed(0)
    model, x = net(), torch.randn(4, 3, 8, 8)
    model[1].running_mean.normal_()
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    fast = rarefy.compile(model, x)
    rarefy.save(fast, tmp_path / "saved")
    for capture in (False, True):
        again = rarefy.load(tmp_path / "saved", model=net().train(), capture=capture)
        with torch.no_grad():
            torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-5)
