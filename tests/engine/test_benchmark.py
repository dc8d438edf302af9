"""The benchmark keeps every round, interleaves them, hides nobody and checks outputs."""

import pytest
import torch
from torch import nn

from needs import needs_native
from rarefy.core.errors import DataError, UnknownNameError
from rarefy.engine import benchmark
from rarefy.engine.rivals import RIVALS, find
from rarefy.engine.rivals.outputs import agreement, first_tensor, relative_error


class Faked:
    """A rival that answers at once with a given output."""

    precision = "fp32"

    def __init__(self, name, output, why=None, error=None):
        self.name, self.output, self.why, self.error = name, output, why, error

    def available(self):
        return self.why

    def prepare(self, model, batch, calibration):
        if self.error:
            raise self.error
        return lambda given: self.output


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)).eval()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight[torch.rand_like(layer.weight) < 0.7] = 0
    return model


X = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))


def test_every_round_is_kept_and_rounds_are_interleaved(net):
    report = benchmark(net, X, rounds=4, against=("torch", Faked("other", net(X).detach())))
    names = ["rarefy", "torch", "other"]
    assert {name: len(times) for name, times in report.rounds["32x64"].items()} == dict.fromkeys(names, 4)
    assert all(t > 0 for times in report.rounds["32x64"].values() for t in times)
    order = report.shapes[0].order
    turns = [order[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(turn) == sorted(names) for turn in turns)
    assert [turn[0] for turn in turns] == ["rarefy", "torch", "other", "rarefy"]


@needs_native
def test_our_8_bit_model_is_timed_beside_the_float_one(net, prefer):
    prefer("layers")
    dense = nn.Sequential(nn.Linear(64, 64)).eval()  # rivals run another model: ours must not
    report = benchmark(net, X, rounds=2, dense=dense, against=(), int8=True)
    timed = report.shapes[0].timed
    assert list(timed) == ["rarefy", "rarefy-int8"]
    assert timed["rarefy-int8"].precision == "int8"
    assert 0.999 < timed["rarefy-int8"].cosine < 1 - 1e-7
    assert timed["rarefy"].error < 1e-4
    assert "rarefy-int8" not in benchmark(net, X, rounds=1).shapes[0].timed


def test_ratio_is_the_quotient_of_the_medians(net):
    report = benchmark(net, X, rounds=3)
    medians = report.median["32x64"]
    assert report.ratio("torch", "32x64") == medians["torch"] / medians["rarefy"]
    assert report.to_dict()["shapes"][0]["timed"]["torch"]["ratio"] == report.ratio()
    with pytest.raises(UnknownNameError, match="32x64"):
        report.ratio(shape="32x65")


def test_several_shapes_are_timed(net):
    report = benchmark(net, [X, X[:2]], rounds=1)
    assert [s.shape for s in report.shapes] == ["32x64", "2x64"]


def test_faster_rival_comes_first_in_the_table(net):
    report = benchmark(net, X, rounds=3, against=("torch", Faked("instant", net(X).detach())))
    rows = [line.split()[0] for line in str(report).splitlines()[2:5]]
    assert rows[0] == "instant"
    assert set(rows) == {"instant", "torch", "rarefy"}


def test_wrong_output_is_called_wrong(net):
    report = benchmark(net, X, rounds=1, against=("torch", Faked("liar", torch.zeros(32, 64))))
    timed = report.shapes[0].timed
    assert timed["liar"].wrong
    assert not timed["torch"].wrong
    assert not timed["rarefy"].wrong
    assert "WRONG OUTPUT" in next(line for line in str(report).splitlines() if "liar" in line)


def test_absent_and_failing_rivals_are_named_with_the_reason(net):
    absent = Faked("absent", None, why="not installed: absent")
    broken = Faked("broken", None, error=RuntimeError("no such\nthing"))
    report = benchmark(net, X, rounds=1, against=("torch", absent, broken))
    assert report.skipped["absent"] == "not installed: absent"
    assert "RuntimeError: no such" in report.skipped["broken"]
    assert set(report.shapes[0].timed) == {"rarefy", "torch"}
    assert "not installed: absent" in str(report)


def test_unknown_rival_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="'openvino'"):
        find(["openvin"])
    assert [r.name for r in find("all")] == list(RIVALS)


@pytest.mark.parametrize(("inputs", "rounds"), [([], 3), ({}, 3), (X, 0)])
def test_nothing_to_time_is_an_error(net, inputs, rounds):
    with pytest.raises(DataError, match="give"):
        benchmark(net, inputs, rounds=rounds)


def test_threads_are_put_back(net):
    before = torch.get_num_threads()
    report = benchmark(net, X, rounds=1, threads=2)
    assert report.threads == 2
    assert torch.get_num_threads() == before


def test_a_compiled_model_is_not_compiled_again(net):
    from rarefy.engine import compile

    fast = compile(net, X)
    report = benchmark(fast, X, rounds=1)
    assert report.shapes[0].timed["rarefy"].error < 1e-4


_SLOW = {"torch.compile", "openvino-int8", "onnxruntime-int8"}
_PARAMETERS = [pytest.param(n, marks=[pytest.mark.slow] if n in _SLOW else []) for n in RIVALS]


@pytest.mark.parametrize("name", _PARAMETERS)
def test_rivals_compute_what_the_model_computes(net, name):
    rival = RIVALS[name]
    if rival.available() is not None:
        pytest.skip(f"{name}: {rival.available()}")
    batch = {"input": X}
    out = rival.prepare(net, batch, [batch])(batch)
    with torch.no_grad():
        right = net(X)
    assert out.shape == right.shape
    assert relative_error(out, right) < 1e-4 if rival.precision == "fp32" else agreement(out, right) > 0.99


def test_first_tensor_and_agreement():
    a = torch.eye(3)
    assert first_tensor({"note": "x", "y": a}) is a
    assert first_tensor((None, a)) is a
    assert agreement(a, 2 * a) == pytest.approx(1.0)
    assert agreement(a, a.roll(1, 0)) == pytest.approx(0.0)
    assert agreement(a, a[:2]) == -1.0
    assert relative_error(a, 2 * a) == pytest.approx(0.5)
    assert relative_error(torch.full((1,), float("nan")), torch.ones(1)) == float("inf")
