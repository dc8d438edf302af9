"""A budget in bytes: kept by the file, spent better than evenly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rarefy
from rarefy.core.errors import SparsityError
from rarefy.core.grid import QuantizeSpec, codes_of
from rarefy.recipes.size_budget import SPECS, prune_to_size, saved_bytes
from rarefy.recipes.store import load, save


def net() -> nn.Module:
    """Layers that differ: the first has few directions that matter, the last moves the output most."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 32)).eval()
    with torch.no_grad():
        model[2].weight[:, 64:] *= 0.02
    return model


def inputs(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(12, 64, generator=torch.Generator().manual_seed(9))
    noise = [0.2 * torch.randn(128, 64, generator=generator) for _ in range(2)]
    return [torch.randn(128, 12, generator=generator) @ mix + n for n in noise]


def lost(model: nn.Module) -> float:
    """Relative squared error of the output on unseen inputs."""
    dense, x = net(), torch.cat(inputs(5))
    with torch.inference_mode():
        return float((model(x) - dense(x)).square().sum() / dense(x).square().sum())


def uniform(spec: QuantizeSpec, allowed: int) -> float:
    """The least error of one spec and one sparsity for all layers within the bytes: the error at the least such
    sparsity, to 1/32."""
    best, low, high = float("inf"), -1, 31
    while high - low > 1:
        model, middle = net(), (low + high) // 2
        asked = {"sparsity": middle / 32, "quantize": spec, "data": inputs(1), "measure": False}
        rarefy.prune(model, "sparsegpt", **asked)
        if saved_bytes(model) <= allowed:
            best, high = lost(model), middle
        else:
            low = middle
    return best


@pytest.mark.parametrize("allowed", [22_000])
def test_within_the_budget_and_better_than_any_even_spending(allowed: int, tmp_path: Path) -> None:
    model = net()
    report = rarefy.prune(model, "sparsegpt", size_budget=allowed, data=inputs(1))
    size = save(model, tmp_path / "m.safetensors").file_bytes
    assert report.budget is not None
    assert 0.8 * allowed < size == report.budget["bytes"] <= allowed
    assert size == (tmp_path / "m.safetensors").stat().st_size
    assert lost(model) < min(uniform(spec, allowed) for spec in SPECS)
    choices = report.budget["choices"]
    assert {row.name: row.result["bits"] for row in report.sites} == {n: c["bits"] for n, c in choices.items()}
    assert f"whole file: {size} bytes" in str(report)
    again = load(tmp_path / "m.safetensors", model=net())
    for a, b in zip(again, model, strict=True):
        if isinstance(a, nn.Linear):
            held, wanted = codes_of(a), codes_of(b)
            assert held is not None and wanted is not None and torch.equal(held.values, wanted.values)


def test_what_needs_no_bytes_less_stays_whole() -> None:
    model, dense = net(), net()
    allowed = saved_bytes(dense) - 4 * 64 * 128  # the whole model without what the first layer takes
    report = rarefy.prune(model, "sparsegpt", size_budget=allowed, data=inputs(1))
    assert report.budget is not None and saved_bytes(model) <= allowed
    whole = [name for name, choice in report.budget["choices"].items() if choice["bits"] == 32]
    assert whole and all("kept whole" in report.skipped[name] for name in whole)
    for name in whole:
        assert torch.equal(model.get_submodule(name).weight, dense.get_submodule(name).weight)


def test_a_budget_that_holds_the_dense_model_changes_nothing() -> None:
    model, dense = net(), net()
    report = rarefy.prune(model, "sparsegpt", size_budget=10**9, data=inputs(1))
    assert report.sites == () and report.sparsity == 0.0 and set(report.skipped) == {"0", "2", "4"}
    assert report.budget is not None and report.budget["bytes"] == saved_bytes(dense)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), dense.parameters(), strict=True))
    assert "kept whole" in str(report)


def test_a_pattern_of_one_density_chooses_bits_alone() -> None:
    model = net()
    report = rarefy.prune(model, "sparsegpt", size_budget=30_000, pattern="2:4", data=inputs(1))
    assert report.budget is not None and saved_bytes(model) <= 30_000
    for name, choice in report.budget["choices"].items():
        kept = model.get_submodule(name).weight.reshape(-1, 4).ne(0).sum(1)
        assert (choice["bits"], choice["density"]) == (32, 1.0) or (choice["density"] == 0.5 and int(kept.max()) <= 2)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"size_budget": 5_000}, r"5000 bytes cannot be reached: the layers take at least \d+"),
        ({"size_budget": 20_000, "sparsity": 0.5}, "leave out sparsity="),
        ({"size_budget": 30_000, "quantize": QuantizeSpec(4)}, "quantize="),
        ({"size_budget": 30_000, "data": None}, "needs calibration data"),
    ],
)
def test_what_cannot_be_leaves_the_model_as_it_was(options: dict[str, Any], why: str) -> None:
    model = net()
    with pytest.raises(ValueError, match=why):
        rarefy.prune(model, "sparsegpt", **{"data": inputs(1), **options})
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), net().parameters(), strict=True))
    assert all(codes_of(m) is None for m in model if isinstance(m, nn.Linear))


def test_a_method_that_rounds_by_itself_is_refused() -> None:
    with pytest.raises(SparsityError, match="rounds by itself"):
        prune_to_size(net(), "gptq", 30_000, data=inputs(1))
