"""Sums over rows: in portions, shared by sites that read the same, whatever the order in which they read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rarefy.calibration import collect
from rarefy.calibration.accumulator import Accumulators
from rarefy.calibration.stream import Streams
from rarefy.core.errors import DataError
from rarefy.core.evidence import Need
from rarefy.core.site import find_sites

NEEDS = (Need.INPUT_GRAM, Need.INPUT_SQNORM, Need.INPUT_MEAN)


def rows(tokens: int, n: int = 5, groups: int = 1) -> Tensor:
    return torch.randn(tokens, groups, n)


@pytest.mark.parametrize("needs", [NEEDS, NEEDS[1:]], ids=["held", "at once"])
@settings(max_examples=60, deadline=None)
@given(reads=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), min_size=1, max_size=14), data=st.data())
def test_every_site_has_the_sums_of_what_it_read(needs: tuple[Need, ...], reads: list, data: st.DataObject) -> None:
    """Any order of reading a few tensors, any of them by several sites at once or one after the other."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("rarefy.calibration.stream._TOKENS", data.draw(st.sampled_from([1, 6, 100])))
    torch.manual_seed(0)
    tensors = [rows(tokens) for tokens in (3, 4, 7, 1)]
    streams, seen = Streams("abcd", needs), {site: [] for site in "abcd"}
    for site, which in reads:
        streams.add(site, tensors[which].clone(), tensors[which])
        seen[site].append(tensors[which])
    monkeypatch.undo()
    for site in data.draw(st.permutations("abcd")):
        values, tokens = streams.take(site)
        assert tokens == sum(len(x) for x in seen[site])
        if seen[site]:
            x = torch.cat(seen[site])[:, 0]
            expected = {Need.INPUT_GRAM: x.t() @ x, Need.INPUT_SQNORM: x.square().sum(0), Need.INPUT_MEAN: x.mean(0)}
            for need in needs:
                torch.testing.assert_close(values[need][0], expected[need], rtol=1e-4, atol=1e-5)


def test_sites_that_read_the_same_share_one_gram() -> None:
    streams = Streams(["q", "k", "v", "o", "up", "gate"], NEEDS)
    for _ in range(3):
        for group in (["q", "k", "v"], ["o"], ["up", "gate"]):
            x = rows(9)
            for site in group:
                streams.add(site, x, x)
    grams = {site: streams.take(site)[0][Need.INPUT_GRAM] for site in ("q", "k", "v", "o", "up", "gate")}
    assert grams["q"] is grams["k"] is grams["v"]
    assert grams["up"] is grams["gate"]
    assert len({id(gram) for gram in grams.values()}) == 3


@pytest.mark.parametrize("n", [1, 383, 384, 385, 1000])
def test_a_wide_gram_is_whole_and_symmetric(n: int) -> None:
    x = rows(70, n)
    sums = Accumulators(["fc"], NEEDS)
    for part in x.split(33):
        sums.add("fc", part)
    gram = sums.take("fc", 1)[Need.INPUT_GRAM]
    torch.testing.assert_close(gram, (x[:, 0].double().t() @ x[:, 0].double()).float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(gram, gram.t())


def test_rows_that_the_model_changes_later_are_as_they_were() -> None:
    sums, x = Accumulators(["fc"], NEEDS), rows(4)
    before = x.clone()
    sums.add("fc", x)
    x.zero_()
    torch.testing.assert_close(sums.take("fc", 1)[Need.INPUT_SQNORM], before[:, 0].square().sum(0))


@pytest.mark.parametrize("needs", [NEEDS, NEEDS[1:]], ids=["held", "at once"])
def test_one_huge_token_does_not_drown_the_others(needs: tuple[Need, ...]) -> None:
    """A first token of 3e4 and 400 batches of ordinary ones: float32 sums would lose a third of what these add."""
    torch.manual_seed(1)
    first, rest = torch.full((1, 8), 3e4), torch.randn(400 * 10, 8) * 3
    model = nn.Sequential(nn.Linear(8, 2))
    sites = find_sites(model)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rarefy.calibration.stream._TOKENS", 10)
        found = collect(model, sites, [first, *rest.split(10)], frozenset(needs))["0"]
    exact = rest.double().square().sum(0) + 9e8
    narrow = torch.full((8,), 9e8)
    for part in rest.split(10):
        narrow += part.square().sum(0)
    drowned = (narrow.double() - exact).abs().max()
    assert drowned > 500  # what the check is about
    for need in set(needs) & {Need.INPUT_GRAM, Need.INPUT_SQNORM}:
        seen = found[need].diagonal() if need is Need.INPUT_GRAM else found[need]
        assert (seen.double() - exact).abs().max() <= 64  # float32 of the result: half a step of 64, and a step more
    mean = (rest.double().sum(0) + 3e4) / 4001
    torch.testing.assert_close(found[Need.INPUT_MEAN].double(), mean, rtol=1e-6, atol=1e-6)


def test_what_is_not_finite_or_never_read_is_named() -> None:
    sums = Accumulators(["fc", "spare"], NEEDS)
    with pytest.raises(DataError, match=r"^fc: its input holds NaN"):
        sums.add("fc", torch.full((2, 1, 3), float("nan")))
    with pytest.raises(DataError, match=r"^spare: no calibration batch reaches"):
        sums.take("spare", 1)
    sums.add("fc", torch.full((2, 1, 3), 3e38))  # large, but finite: the sum of them is not
