"""The sweep covers every method and sparsity, and gives the dense weights back."""

import torch
from torch import nn

from rarefy.recipes.quality_sweep import sweep
from rarefy.recipes.stages import Silent
from rarefy.recipes.task import batch_task


def _correlated():
    """Inputs with a few strong directions: where methods that see data win."""
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(32, 32, generator=generator) * torch.logspace(0.5, -2, 32)[:, None]
    return [torch.randn(64, 32, generator=generator) @ mix for _ in range(8)]


def test_all_points_are_there_and_fall_in_the_right_order():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
    task = batch_task(net, _correlated())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        dense = task.vectors(net, None)
    points = sweep(task, dense, Silent(), sparsities=(0.5, 0.9))
    found = {(p.method, p.sparsity): p.cosine for p in points}
    assert set(found) == {(m, s) for m in ("magnitude", "wanda", "sparsegpt") for s in (0.5, 0.9)}
    assert all(found[m, 0.5] > found[m, 0.9] for m in ("magnitude", "wanda", "sparsegpt"))
    assert found["sparsegpt", 0.9] > found["magnitude", 0.9]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
