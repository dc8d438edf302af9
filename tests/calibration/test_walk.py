"""The block-by-block walk gives the evidence that whole passes give, sees what was pruned, and leaves no trace."""

from typing import Any

import pytest
import torch
from torch import nn

from contracts.models import CASES, bert, padded_tokens
from rarefy.calibration import collect, walk
from rarefy.calibration.batches import Stop, call_model
from rarefy.calibration.chain import probe
from rarefy.core.errors import DataError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.site import Site, find_sites

NEEDS = frozenset({Need.INPUT_SQNORM, Need.INPUT_GRAM, Need.INPUT_MEAN})


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def walked(model: nn.Module, sites: list[Site], batches: list[Any], write: bool = False) -> dict[str, Evidence]:
    """Evidence of all sites by `walk`; with `write`, each site is halved as soon as it is visited."""
    found: dict[str, Evidence] = {}

    def visit(site: Site, evidence: Evidence) -> None:
        assert site.name not in found, "visited twice"
        found[site.name] = evidence
        if write:
            site.write(site.read() / 2, torch.ones(site.shape, dtype=torch.bool))

    walk(model, sites, batches, NEEDS, visit)
    return found


def assert_same(found: dict[str, Evidence], wanted: dict[str, Evidence]) -> None:
    assert set(found) == set(wanted)
    for name, evidence in wanted.items():
        assert found[name].tokens == evidence.tokens
        for need in NEEDS:
            torch.testing.assert_close(found[name][need], evidence[need], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_without_changes_it_equals_whole_passes(case: str) -> None:
    model, batches = CASES[case]().model, CASES[case]().batches
    sites = find_sites(model)[0]
    assert_same(walked(model, sites, batches), collect(model, sites, batches, NEEDS))


def test_an_encoder_is_a_chain_of_its_layers_and_a_free_graph_is_none() -> None:
    case = bert()
    shown = probe(case.model, find_sites(case.model)[0], case.batches[0], call_model)
    assert list(shown.chain) == list(case.model.encoder.layer)
    conv = CASES["convnet"]()
    assert probe(conv.model, find_sites(conv.model)[0], conv.batches[0], call_model).chain == ()


def test_later_blocks_see_the_changed_earlier_ones() -> None:
    """The reference runs the whole model anew for each block, after the blocks before it were written."""
    case, twin = bert(3), bert(3)
    found = walked(case.model, find_sites(case.model)[0], case.batches, write=True)
    sites = find_sites(twin.model)[0]
    for block in [f"encoder.layer.{i}." for i in range(3)] + ["pooler"]:
        mine = [s for s in sites if s.name.startswith(block)]
        assert_same({s.name: found[s.name] for s in mine}, collect(twin.model, mine, twin.batches, NEEDS))
        for site in mine:
            site.write(site.read() / 2, torch.ones(site.shape, dtype=torch.bool))


def test_padding_is_no_evidence() -> None:
    """Batches with padding give the evidence of the same sequences one by one, each at its own length."""
    case = bert()
    sites = [s for s in find_sites(case.model)[0] if "encoder" in s.name]
    singles = []
    for batch in case.batches:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            length = int(mask.sum())
            singles.append({"input_ids": ids[None, :length], "attention_mask": mask[None, :length]})
    assert_same(walked(case.model, sites, case.batches), collect(case.model, sites, singles, NEEDS))


def test_one_layer_is_a_model() -> None:
    model = nn.Linear(4, 3)
    x = torch.randn(10, 4)
    found = walked(model, find_sites(model)[0], [x[:4], x[4:]])["Linear"]
    assert found.tokens == 10
    torch.testing.assert_close(found[Need.INPUT_GRAM], x.t() @ x)
    torch.testing.assert_close(found[Need.INPUT_SQNORM], x.square().sum(0))
    torch.testing.assert_close(found[Need.INPUT_MEAN], x.mean(0))


class Twice(nn.Module):
    """One linear layer that is run twice in a pass, with a norm between."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.tanh(self.fc(x)))


def test_a_layer_that_runs_twice_has_the_evidence_of_both_runs() -> None:
    model, x = Twice(), torch.randn(8, 4)
    found = walked(model, find_sites(model)[0], [x])["fc"]
    second = torch.tanh(model.fc(x)).detach()
    assert found.tokens == 16
    torch.testing.assert_close(found[Need.INPUT_GRAM], x.t() @ x + second.t() @ second)


class Unreached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


@pytest.mark.parametrize("way", [walked, lambda m, s, b: collect(m, s, b, NEEDS)], ids=["walk", "collect"])
def test_a_layer_that_no_batch_reaches_is_named(way: Any) -> None:
    model = Unreached()
    with pytest.raises(DataError, match=r"spare: no calibration batch reaches this layer.*ignore="):
        way(model, find_sites(model)[0], [torch.randn(2, 4)])
    assert hooks(model) == 0


def test_an_input_that_is_not_finite_inside_the_model_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[0].bias.fill_(3e38)
        model[0].weight.fill_(3e38)
    with pytest.raises(DataError, match="1: its input holds NaN or infinity"):
        walked(model, find_sites(model)[0], [torch.ones(2, 4)])


class SomeBatches(nn.Module):
    """A chain that only some batches enter."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x) if len(x) > 1 else x


def test_batches_that_never_enter_the_chain_add_nothing() -> None:
    model = SomeBatches()
    sites = find_sites(model)[0]
    batches = [torch.randn(3, 4), torch.randn(1, 4), torch.randn(5, 4)]
    assert_same(walked(model, sites, batches), collect(model, sites, batches, NEEDS))


@pytest.mark.parametrize("fails", [False, True])
def test_modes_hooks_and_cache_are_as_before(fails: bool) -> None:
    case = bert()
    model = case.model
    model.train()
    model.encoder.layer[0].eval()
    model.config.use_cache = True
    modes = {name: m.training for name, m in model.named_modules()}

    def visit(site: Site, evidence: Evidence) -> None:
        assert not any(m.training for m in model.modules())
        assert model.config.use_cache is False
        assert not torch.is_grad_enabled()
        if fails and "layer.1" in site.name:
            raise KeyboardInterrupt

    try:
        walk(model, find_sites(model)[0], case.batches, NEEDS, visit)
        assert not fails
    except KeyboardInterrupt:
        assert fails
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert model.config.use_cache is True
    assert torch.is_grad_enabled()
    assert hooks(model) == 0


def test_the_signal_that_ends_a_pass_early_never_reaches_the_user() -> None:
    case = bert()
    try:
        walked(case.model, find_sites(case.model)[0], [padded_tokens(5)])
    except Stop:  # pragma: no cover
        pytest.fail("Stop escaped")
    assert hooks(case.model) == 0
