"""`save` and `load` of plain PyTorch modules."""

import os

import pytest
import torch
from torch import nn

from rarefy.core.errors import DTypeError, FileError, ModelError
from rarefy.formats import read
from rarefy.recipes.store import _source, load, save


def prune_(model: nn.Module, density: float = 0.3) -> nn.Module:
    """Magnitude, enough to make a file sparse."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                kept = parameter.abs() >= parameter.abs().float().quantile(1 - density).to(parameter.dtype)
                parameter.copy_(torch.where(kept, parameter, torch.zeros((), dtype=parameter.dtype)))
    return model


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 64), nn.Linear(64, 10)
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and torch.equal(left[n], right[n]) for n in left
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_round_trip_is_exact_and_smaller(tmp_path, dtype) -> None:
    model = prune_(net()).to(dtype)
    report = save(model, tmp_path)
    fresh = net(1)
    assert load(tmp_path, model=fresh) is fresh
    assert same(model, fresh)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert report.file_bytes == (tmp_path / "model.safetensors").stat().st_size < 0.65 * report.dense_bytes
    assert {t.name for t in report.pruned} >= {"0.weight", "4.weight"}


def test_the_report_adds_up_and_shows_every_sparse_tensor(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(384, 384), nn.Linear(384, 8))
    with torch.no_grad():
        model[0].weight.view(-1)[: 384 * 384 * 7 // 10] = 0
        model[0].weight.view(-1)[:5] = -0.0
    report = save(model, tmp_path / "out")
    assert report.dense_bytes == sum(t.numel() * 4 for t in model.state_dict().values())
    assert report.pruned_dense_bytes == 4 * 384 * 384
    assert 0.33 < report.pruned_share < 0.345
    text = str(report)
    assert "0.weight" in text
    assert "384x384" in text
    assert "5 zeros of negative sign" in text
    assert report.to_dict()["pruned_share"] == report.pruned_share


def test_a_single_file_can_be_named(tmp_path) -> None:
    model = prune_(net())
    save(model, tmp_path / "weights.safetensors")
    assert same(load(tmp_path / "weights.safetensors", model=net(1)), model)
    assert os.listdir(tmp_path) == ["weights.safetensors"]


def test_saving_over_what_was_loaded(tmp_path) -> None:
    save(prune_(net()), tmp_path)
    model = load(tmp_path, model=net(1))
    with torch.no_grad():
        model[5].bias.add_(1)
    save(model, tmp_path)
    assert same(load(tmp_path, model=net(2)), model)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(100, 32), nn.Linear(32, 100, bias=False)
        self.head.weight = self.embed.weight


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path) -> None:
    model = prune_(Tied())
    report = save(model, tmp_path)
    assert report.aliases == {"head.weight": "embed.weight"}
    assert len(report.tensors) == 1
    back = load(tmp_path, model=Tied())
    assert back.head.weight is back.embed.weight
    assert same(back, model)


def test_tied_in_the_module_but_different_in_the_file(tmp_path) -> None:
    loose = Tied()
    loose.head.weight = nn.Parameter(torch.zeros(100, 32))
    save(loose, tmp_path)
    with pytest.raises(FileError, match=r"embed\.weight.*one parameter.*different values"):
        load(tmp_path, model=Tied())


def test_views_of_one_storage_are_stored_each(tmp_path) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.randn(2, 50, 50)
            self.a, self.b = nn.Parameter(whole[0]), nn.Parameter(whole[1])

    model, back = Flat(), Flat()
    save(model, tmp_path)
    assert same(load(tmp_path, model=back), model)


def test_parameters_stay_the_same_objects_and_gradients_flow(tmp_path) -> None:
    save(prune_(net()), tmp_path)
    fresh = net(1)
    optimizer = torch.optim.SGD(fresh.parameters(), lr=0.1)
    load(tmp_path, model=fresh)
    before = fresh[5].weight.detach().clone()
    fresh(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert not torch.equal(fresh[5].weight, before)


def test_a_module_on_the_meta_device_is_filled(tmp_path) -> None:
    model = prune_(Tied())
    save(model, tmp_path)
    with torch.device("meta"):
        empty = Tied()
    back = load(tmp_path, model=empty)
    assert same(back, model)
    assert back.head.weight is back.embed.weight


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), r"missing 1\.weight"),
        (lambda: nn.Sequential(nn.Linear(4, 4, bias=False)), r"unexpected 0\.bias"),
        (lambda: nn.Sequential(nn.Linear(5, 4)), r"0\.weight is \(4, 4\) in the file, \(4, 5\) in the model"),
    ],
)
def test_a_file_of_another_model_is_refused_and_nothing_changed(tmp_path, other, said) -> None:
    save(nn.Sequential(nn.Linear(4, 4)), tmp_path)
    model = other()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(FileError, match=said):
        load(tmp_path, model=model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_without_a_model_it_says_why(tmp_path) -> None:
    save(net(), tmp_path)
    with pytest.raises(FileError, match=r"no config\.json.*imports no class.*load\(path, model=module\)"):
        load(tmp_path)
    with pytest.raises(FileError, match=r"holds no model\.safetensors"):
        load(tmp_path / "nowhere")


def test_what_cannot_be_stored_is_named(tmp_path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"any": "object"}

    with pytest.raises(ModelError, match=r"_extra_state.*pickling"):
        save(Extra(3, 3), tmp_path)
    with pytest.raises(ModelError, match="meta device"):
        save(nn.Linear(3, 3, device="meta"), tmp_path)
    with pytest.raises(ModelError, match="no parameters"):
        save(nn.ReLU(), tmp_path)
    with pytest.raises(ModelError, match=r"not an nn\.Module"):
        _source({"a": torch.ones(2)})
    holder = nn.Module()
    holder.register_buffer("adjacency", torch.eye(3).to_sparse())
    with pytest.raises(ModelError, match="to_dense"):
        save(holder, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_type_that_safetensors_has_not_is_named(tmp_path) -> None:
    holder = nn.Module()
    holder.register_buffer("phase", torch.zeros(3, dtype=torch.complex128))
    with pytest.raises(DTypeError, match=r"'phase'.*complex128"):
        save(holder, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_compiled_model_saves_the_model_that_was_compiled(tmp_path) -> None:
    model = prune_(net()).eval()
    dressed = type("Compiled", (nn.Module,), {"__module__": "rarefy.engine.compiled"})()
    dressed.source = model
    save(dressed, tmp_path / "a")
    assert same(load(tmp_path / "a", model=net(1)), model)
    save(torch.compile(model, backend="eager"), tmp_path / "b")
    assert read(tmp_path / "b").keys() == model.state_dict().keys()


def test_a_submodule_called_source_is_not_mistaken_for_one(tmp_path) -> None:
    model = nn.Module()
    model.source, model.target = nn.Linear(3, 3), nn.Linear(3, 3)
    save(model, tmp_path)
    assert read(tmp_path).keys() == model.state_dict().keys()
