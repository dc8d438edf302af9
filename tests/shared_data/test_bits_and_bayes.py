"""MNIST: what bits and distributions promise on handwritten digits (small nets, few steps)."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.training.bit_payload import capacity, store, stored
from rarefy.training.bitwise_training import bit_report, bitwise_training
from rarefy.training.turbo_vbi import runs

DATA = Path(__file__).parents[3] / "shared" / "data"
FOUND = (DATA / "mnist" / "train-images-idx3-ubyte.gz").is_file()
pytestmark = pytest.mark.skipif(not FOUND, reason="the shared data folder is not beside this checkout")


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def read(part: str, count: int) -> tuple[Tensor, Tensor]:
        kinds = (("images-idx3", 16), ("labels-idx1", 8))
        raw = [gzip.decompress((DATA / "mnist" / f"{part}-{kind}-ubyte.gz").read_bytes()) for kind, _ in kinds]
        x, y = (torch.tensor(np.frombuffer(r, np.uint8, offset=k[1])) for r, k in zip(raw, kinds, strict=True))
        return (x.view(-1, 784)[:count].float() / 255 - 0.1307) / 0.3081, y[:count].long()

    return *read("train", 5000), *read("t10k", 2000)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Per cent."""
    with torch.no_grad():
        return 100.0 * float((model(x).argmax(1) == y).float().mean())


def bits_on(digits: tuple[Tensor, ...], lr: float, **options: int) -> tuple[nn.Module, float]:
    """A small net after 300 steps, and the share of zeros with which it began."""
    x, y = digits[:2]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    first = bitwise_training(model, optimizer, **options)
    order = torch.Generator().manual_seed(0)
    for _ in range(300):
        at = torch.randint(len(x), (100,), generator=order)
        F.cross_entropy(model(x[at]), y[at]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, first.zeros


def test_a_payload_in_the_low_five_of_eight_bits_costs_under_two_points(digits: tuple[Tensor, ...]) -> None:
    model, _ = bits_on(digits, 2e-2, bits=8, trained=3)
    before = accuracy(model, *digits[2:])
    payload = np.random.default_rng(0).bytes(capacity(model))
    store(model, payload)
    assert before > 88.0
    assert accuracy(model, *digits[2:]) > before - 2.0
    assert stored(model, len(payload)) == payload


def test_more_weights_are_zero_than_random_bits_have(digits: tuple[Tensor, ...]) -> None:
    model, first = bits_on(digits, 5e-2, bits=4)
    assert bit_report(model).zeros > 1.4 * max(first, 2.0**-3)
    assert accuracy(model, *digits[2:]) > 88.0


def test_chains_leave_fewer_runs_than_magnitude_does(digits: tuple[Tensor, ...]) -> None:
    """90 % of the first layer pruned while it trains."""
    x, y = digits[:2]

    def pruned(name: str, **options: Any) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        options = {"sparsity": 0.9, "total_steps": 200, "ignore": ["2"], **options}
        trainer = rarefy.sparse_training(model, optimizer, name, **options)
        order = torch.Generator().manual_seed(0)
        for _ in range(200):
            at = torch.randint(len(x), (100,), generator=order)
            F.cross_entropy(model(x[at]), y[at]).backward()
            trainer.step()
            trainer.zero_grad()
        return trainer.masks["0"]

    magnitude = pruned("gmp-zhu-gupta", every=20, end=0.75)

    def has_few_runs(mask: Tensor) -> None:
        assert int(mask.sum()) == int(magnitude.sum())
        assert runs(mask) < 0.75 * runs(magnitude)

    assert_beats_impostor(has_few_runs, pruned("turbo-vbi-structured-bayes", examples=5000, strength=0.1), magnitude)
