"""The census finds planted neurons and nothing else; dead ones are cut out without a trace."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from activations.tiny import opt, text
from contracts.impostor import assert_beats_impostor
from rarefy.analysis.ffn_neuron_census import CensusRules, ffn_neuron_census, remove_dead, suppression
from rarefy.core.errors import DataError, ModelError, SparsityError
from rarefy.selectors import Threshold, TopK, select_inputs

VOCABULARY, LENGTH, ROWS, NEURONS = 48, 32, 96, 100
DEAD, TOKENS, PAIRS, PLACES = range(10), range(10, 15), range(15, 17), range(17, 20)


class Planted(nn.Module):
    """Neurons that read one-hot token, previous token and position; weights are whole numbers, so sums are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * VOCABULARY + LENGTH, NEURONS)
        self.activation_fn = nn.ReLU()
        self.fc2 = nn.Linear(NEURONS, 16)
        generator = torch.Generator().manual_seed(0)
        weight, bias = torch.zeros(NEURONS, 2 * VOCABULARY + LENGTH), torch.zeros(NEURONS)
        weight[:10] = torch.randint(-9, 3, (10, weight.shape[1]), generator=generator)
        bias[:10] = -6.0
        for i in TOKENS:
            weight[i, i] = 2.0
        for i in PAIRS:
            weight[i, i], weight[i, VOCABULARY + i + 1], bias[i] = 1.0, 1.0, -1.0
        for i, places in zip(PLACES, (range(5), range(20, 32), range(0, 32, 2)), strict=True):
            weight[i, [2 * VOCABULARY + p for p in places]] = 1.0
        some = torch.rand(80, 2 * VOCABULARY, generator=generator) < 0.5
        weight[20:, : 2 * VOCABULARY] = some.float()
        bias[20:] = -1.0 * (torch.rand(80, generator=generator) < 0.5)
        self.fc1.weight.data, self.fc1.bias.data = weight, bias
        self.fc2.weight.data = torch.randint(-3, 4, (16, NEURONS), generator=generator).float()
        self.fc2.bias.data.zero_()

    def forward(self, ids: Tensor) -> Tensor:
        before = torch.cat([ids[:, :1], ids[:, :-1]], 1)
        place = torch.arange(ids.shape[1]).expand_as(ids)
        sizes = ((ids, VOCABULARY), (before, VOCABULARY), (place, LENGTH))
        x = torch.cat([F.one_hot(part, size) for part, size in sizes], -1).float()
        y: Tensor = self.fc2(self.activation_fn(self.fc1(x)))
        return y


def ids() -> Tensor:
    found = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    for i in PAIRS:  # pairs that the pair detectors wait for
        found[i::8, 9], found[i::8, 10] = i + 1, i
    return found


def test_the_planted_sets_are_found_exactly() -> None:
    model, data = Planted(), [ids()[:48], ids()[48:]]
    found = ffn_neuron_census(model, data)["fc2"]
    assert found.neurons == NEURONS
    assert found.dead == tuple(DEAD)
    assert {i: d.ngrams for i, d in found.detectors.items() if d.n == 1} == {i: ((i,),) for i in TOKENS}
    assert {i: d.ngrams for i, d in found.detectors.items() if d.n == 2} == {i: ((i + 1, i),) for i in PAIRS}
    assert set(found.detectors) == {*TOKENS, *PAIRS}
    assert {i: p.kind for i, p in found.positional.items()} == {17: "range", 18: "range", 19: "oscillatory"}


def test_dead_neurons_go_without_a_trace_and_others_do_not() -> None:
    data, model = ids(), Planted()
    before = model(data)
    census = ffn_neuron_census(model, [data])

    def check(kind: str) -> None:
        cut = copy.deepcopy(model)
        if kind == "dead":
            assert remove_dead(cut, census) == {"fc2": 10}
            assert cut.fc1.weight.shape == (90, 128) and cut.fc2.weight.shape == (16, 90)
            assert cut.fc1.out_features == cut.fc2.in_features == 90
        else:
            smallest = cut.fc1.weight.norm(dim=1).argsort()[:10]
            cut.fc1.weight.data[smallest], cut.fc1.bias.data[smallest] = 0.0, 0.0
        assert torch.equal(cut(data), before)

    assert_beats_impostor(check, "dead", "magnitude")
    remove_dead(model, census)
    with pytest.raises(ModelError, match="the census counted 100"):
        remove_dead(model, census)


def test_a_detector_that_lowers_its_own_trigger_is_told() -> None:
    model, found = Planted(), ffn_neuron_census(Planted(), [ids()])["fc2"]
    unembedding = torch.randn(VOCABULARY, 16, generator=torch.Generator().manual_seed(2))
    unembedding[10] = -10 * model.fc2.weight[:, 10].detach()
    shares = suppression(model.fc2, unembedding, found)
    assert shares[10] == 1.0 and set(shares) == set(TOKENS)


def test_a_real_class_is_counted_and_bad_data_are_named() -> None:
    model = opt()
    found = ffn_neuron_census(model, [{"input_ids": text()}])
    assert [layer.neurons for layer in found.values()] == [64, 64]
    with pytest.raises(DataError, match="different lengths"):
        ffn_neuron_census(model, [text(), text(length=9)])
    with pytest.raises(DataError, match="no input_ids"):
        ffn_neuron_census(model, [torch.randn(2, 3, 32)])
    with pytest.raises(DataError, match="padded"):
        ffn_neuron_census(model, [{"input_ids": text(), "attention_mask": torch.arange(24).expand(8, 24) < 20}])
    with pytest.raises(SparsityError, match="coverage"):
        CensusRules(coverage=2.0)


def test_what_cannot_be_cut_leaves_the_model_whole() -> None:
    model, batch = opt(), text()
    with torch.no_grad():
        model.model.decoder.layers[0].fc1.bias[:9] = -100.0
    census = ffn_neuron_census(model, [batch])
    last = list(census)[-1]
    elsewhere = ffn_neuron_census(model, [batch], layers=["model.decoder.layers.0.self_attn.out_proj"])
    with pytest.raises(ModelError, match="is no down projection"):
        remove_dead(model, elsewhere)
    with pytest.raises(ModelError, match=f"{last}: has 64 neurons, the census counted 63"):
        remove_dead(model, census | {last: replace(census[last], neurons=63)})
    for selector in (TopK(32), TopK(32, torch.ones(64)), Threshold(torch.zeros(64))):
        handle = select_inputs(model.model.decoder.layers[0].fc2, selector)
        with pytest.raises(ModelError, match="call detach"):
            remove_dead(model, census)
        handle.remove()
    assert model.model.decoder.layers[0].fc2.in_features == 64
    handle = select_inputs(model.model.decoder.layers[0].fc2, Threshold(torch.tensor(0.01)))  # fits any width
    assert remove_dead(model, census)["model.decoder.layers.0.fc2"] >= 9
    model(input_ids=batch)


def test_shared_layers_and_padding_alone_have_no_census() -> None:
    model = opt()
    model.model.decoder.layers[1].fc2 = model.model.decoder.layers[0].fc2
    with pytest.raises(ModelError, match=r"read 384 rows for 192 tokens"):
        ffn_neuron_census(model, [text()])
    with pytest.raises(DataError, match="padding only"):
        ffn_neuron_census(opt(), [{"input_ids": text(), "attention_mask": torch.zeros(8, 24)}])
