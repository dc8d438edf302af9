import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from rarefy.core.errors import ModelError, WeightError
from rarefy.core.site import find_sites


class Tied(nn.Module):
    """An embedding, a linear head that shares its weight, and one linear layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.body = nn.Linear(4, 4)
        self.again = self.body
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


def names(model: nn.Module, ignore: tuple[str, ...] = ()) -> list[str]:
    return [site.name for site in find_sites(model, ignore)[0]]


def nested() -> nn.Sequential:
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    return nn.Sequential(block, nn.Conv2d(2, 4, 3), nn.LayerNorm(4), nn.Linear(4, 2))


def test_linear_and_convolution_are_found_in_order() -> None:
    assert names(nested()) == ["0.0", "0.2", "1", "3"]


def test_a_model_that_is_one_layer_has_a_name() -> None:
    assert names(nn.Linear(2, 2)) == ["Linear"]


def test_shared_parameters_are_one_site_with_aliases() -> None:
    sites, _ = find_sites(Tied())
    assert [site.name for site in sites] == ["body", "head"]
    assert sites[0].aliases == ("again",)
    assert len(sites[0].modules) == 1


@pytest.mark.parametrize(
    ("ignore", "left"),
    [
        (("3",), ["0.0", "0.2", "1"]),
        (("0",), ["1", "3"]),
        (("0.*",), ["1", "3"]),
        (("2",), ["0.0", "1", "3"]),
        ((r"re:^[13]$",), ["0.0", "0.2"]),
    ],
)
def test_ignore_by_name_prefix_shell_last_part_and_expression(ignore: tuple[str, ...], left: list[str]) -> None:
    assert names(nested(), ignore) == left


def test_ignoring_one_name_of_a_shared_layer_ignores_it() -> None:
    sites, ignored = find_sites(Tied(), ["again"])
    assert [site.name for site in sites] == ["head"]
    assert ignored == ["body", "again"]


def test_an_ignore_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ModelError, match="'classifier' matches no prunable layer"):
        find_sites(nested(), ["classifier"])


@pytest.mark.parametrize(
    ("model", "ignore", "why"),
    [
        (nn.Sequential(nn.ReLU(), nn.LayerNorm(4)), (), "no nn.Linear"),
        (nn.Embedding(4, 4), (), "no nn.Linear"),
        (nn.Sequential(nn.Linear(2, 2)), ("0",), "all 1 are ignored"),
    ],
)
def test_nothing_to_prune_is_an_error(model: nn.Module, ignore: tuple[str, ...], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        find_sites(model, ignore)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_named(bad: float) -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[1, 2] = bad
    with pytest.raises(WeightError, match=r"Linear: weight\[1, 2\] is"):
        find_sites(model)[0][0].read()


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(3, 5), (5, 3)),
        (nn.Conv2d(4, 6, (3, 2)), (6, 24)),
        (nn.Conv2d(4, 6, 3, groups=2), (6, 18)),
    ],
)
def test_read_and_write_go_through_out_by_in(module: nn.Module, shape: tuple[int, int]) -> None:
    (site,) = find_sites(module)[0]
    weight = site.read()
    assert site.shape == tuple(weight.shape) == shape
    mask = torch.rand(shape) < 0.5
    site.write(weight * 2, mask)
    assert torch.equal(site.read(), torch.where(mask, weight * 2, 0.0))


def test_read_is_a_copy_in_at_least_float32() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        module = nn.Linear(3, 2).to(dtype)
        (site,) = find_sites(module)[0]
        before = module.weight.detach().clone()
        weight = site.read()
        weight.zero_()
        assert weight.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        assert torch.equal(module.weight, before)


def test_the_transposed_layer_of_gpt2_is_shown_as_out_by_in() -> None:
    from transformers.pytorch_utils import Conv1D

    module = Conv1D(6, 4)  # out 6, in 4, stored (4, 6)
    (site,) = find_sites(module)[0]
    assert site.shape == (6, 4)
    assert torch.equal(site.read(), module.weight.t())
    site.write(site.read(), torch.arange(24).reshape(6, 4) % 2 == 0)
    assert module.weight[1, 0] == 0
    assert module.weight[0, 0] != 0


def test_a_weight_that_is_computed_at_each_call_cannot_be_written() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    with pytest.raises(ModelError, match="0: its weight is no parameter") as caught:
        find_sites(model)
    assert "remove_parametrizations" in str(caught.value)
    assert names(model, ("0",)) == ["1"]


def test_a_shift_is_added_to_each_bias_once_and_missing_ones_are_told() -> None:
    shared = nn.Linear(3, 2)
    twin = nn.Linear(3, 2)
    twin.weight, twin.bias = shared.weight, shared.bias
    before = shared.bias.detach().clone()
    site = find_sites(nn.ModuleList([shared, twin]))[0][0]
    assert site.shift(torch.tensor([1.0, -2.0], dtype=torch.float64))
    assert torch.equal(shared.bias, before + torch.tensor([1.0, -2.0]))
    assert not find_sites(nn.Linear(3, 2, bias=False))[0][0].shift(torch.ones(2))


def test_a_weight_without_values_cannot_be_read() -> None:
    with torch.device("meta"):
        layer = nn.Linear(3, 2)
    with pytest.raises(ModelError, match="on the meta device and has no values"):
        find_sites(layer)[0][0].read()
