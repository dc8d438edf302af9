"""Weights beside their masks: torch's pruning and NNCF's, as those programs write them."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from rarefy.core.errors import FileError
from rarefy.formats import read
from rarefy.formats.masked import Masked, fold


def test_a_module_pruned_by_torch(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.Conv2d(2, 3, 3))
    for module in model:
        prune.l1_unstructured(module, "weight", amount=0.5)
    prune.random_unstructured(model[0], "bias", amount=0.25)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    for name in ("m.pt", "m.safetensors"):
        found = read(tmp_path / name)
        assert found.keys() == {"0.weight", "0.bias", "1.weight", "1.bias"}
        for index in (0, 1):
            weight = found[f"{index}.weight"]
            assert isinstance(weight, Masked) and weight.shape == model[index].weight.shape
            assert torch.equal(weight.to_dense(), model[index].weight)
            zeros = weight.to_dense() == 0
            assert zeros.sum() == weight.mask.numel() // 2 and not torch.signbit(weight.to_dense()[zeros]).any()
        assert torch.equal(found["0.bias"].to_dense(), model[0].bias)


NNCF = {
    "__nncf_hooks.post_hooks.layers:0:fc:weight__0.0.binary_mask": "layers.0.fc.weight",
    "nncf_module.conv.pre_ops.0.op._binary_mask": "nncf_module.conv.weight",
    "conv.pre_ops.3.op.binary_mask": "conv.weight",
}


@pytest.mark.parametrize("mask", NNCF)
def test_names_of_nncf(mask) -> None:
    kept = torch.tensor([[True, False], [False, True]])
    found = fold({NNCF[mask]: torch.ones(2, 2), mask: kept, "other": torch.ones(1)})
    assert found.keys() == {NNCF[mask], "other"}
    assert torch.equal(found[NNCF[mask]].to_dense(), kept.float())


def test_logits_of_nncf_keep_what_is_positive() -> None:
    name = "__nncf_hooks.post_hooks.fc:weight__0.0.mask"
    found = fold({"fc.weight": torch.full((1, 3), 2.0), name: torch.tensor([[4.5, -0.1, 0.0]])})
    assert found["fc.weight"].to_dense().tolist() == [[2.0, 0.0, 0.0]]


def test_a_model_pruned_by_nncf(tmp_path) -> None:
    nncf = pytest.importorskip("nncf")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 6)

        def forward(self, x):
            return self.fc(x)

    mode = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL
    model = nncf.prune(Net(), mode=mode, ratio=0.5, examples_inputs=torch.zeros(1, 8))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    found = read(tmp_path / "m.pt")
    assert found.keys() == {"fc.weight", "fc.bias"}
    x = torch.randn(3, 8)
    assert int(found["fc.weight"].to_dense().eq(0).sum()) == 24
    assert torch.equal(nn.functional.linear(x, found["fc.weight"].to_dense(), found["fc.bias"]), model(x))


def test_what_is_wrong_is_named() -> None:
    weight, half = torch.ones(2, 2), torch.full((2, 2), 0.5)
    with pytest.raises(FileError, match=r"'a\.weight'.*other than 0 and 1"):
        fold({"a.weight_orig": weight, "a.weight_mask": half})
    with pytest.raises(FileError, match=r"'a\.weight'.*differ"):
        fold({"a.weight_orig": weight, "a.weight_mask": torch.ones(2, 3)})
    with pytest.raises(FileError, match=r"'a\.weight'.*stored twice"):
        fold({"a.weight_orig": weight, "a.weight_mask": weight, "a.weight": weight})
    hook = "__nncf_hooks.post_hooks.a:weight__0.{}.binary_mask"
    with pytest.raises(FileError, match=r"'a\.weight': it has two masks"):
        fold({"a.weight": weight, hook.format(0): weight, hook.format(1): weight})
    assert fold({"attention_mask": weight}).keys() == {"attention_mask"}
