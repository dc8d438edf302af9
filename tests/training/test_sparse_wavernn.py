"""Whole blocks at the scheduled density, and the net of the paper."""

import pytest
import torch

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import DataError, ShapeError
from rarefy.core.topk import exact_count
from rarefy.training.gmp import gmp
from rarefy.training.method import SparseMethod
from rarefy.training.sparse_wavernn import sparse_wavernn
from rarefy.training.wavernn import WaveRNN, bytes_of
from training.loops import adam


def wave(batch: int = 4, time: int = 10) -> torch.Tensor:
    phase = torch.rand(batch, 1, generator=torch.Generator().manual_seed(0)) * 6.0
    return (32768 + 20000 * torch.sin(phase + torch.arange(time) * 0.4)).long()


def blocks_on_schedule(method: SparseMethod) -> None:
    torch.manual_seed(0)
    model, samples = WaveRNN(32, 16), wave()
    trainer = rarefy.sparse_training(model, adam(model), method, sparsity=0.75, ignore=["past", "now"], total_steps=40)
    state, losses = trainer.run["recurrent"], []
    for step in range(40):
        loss = model.loss(samples)
        loss.backward()
        trainer.step()
        trainer.zero_grad()
        losses.append(float(loss.detach()))
        done = step + 1
        if done % 5 == 0 and 10 <= done <= 30:
            z = 0.75 * (1 - (1 - (done - 10) / 20) ** 3)
            assert state.kept == 16 * exact_count(96 * 32 // 16, 1 - z)
        blocks = state.mask.reshape(6, 16, 32).sum(1)
        assert bool(((blocks == 0) | (blocks == 16)).all())
    assert losses[-1] < losses[0] - 0.5


def test_masks_are_whole_blocks_on_the_cubic_schedule() -> None:
    options = {"every": 5, "begin": 0.25, "end": 0.75}
    assert_beats_impostor(blocks_on_schedule, sparse_wavernn(**options), gmp(**options))


def test_the_cell_is_the_formula() -> None:
    torch.manual_seed(1)
    model, samples = WaveRNN(8, 4), wave(2, 3)
    coarse, fine = (part.float() / 127.5 - 1 for part in bytes_of(samples))
    w, h = model.recurrent.weight, torch.zeros(2, 8)
    for t in (1, 2):
        past = torch.stack([coarse[:, t - 1], fine[:, t - 1]], 1) @ model.past.weight.t() + model.past.bias
        gates = []
        for k in range(3):
            seen = past[:, 8 * k : 8 * k + 8].clone()
            seen[:, 4:] += coarse[:, t, None] * model.now.weight[4 * k : 4 * k + 4, 0]
            gates.append((h @ w[8 * k : 8 * k + 8].t(), seen))
        u, r = (torch.sigmoid(a + b) for a, b in gates[:2])
        h = u * h + (1 - u) * torch.tanh(r * gates[2][0] + gates[2][1])
    of_c, of_f = model(samples)
    assert torch.allclose(of_c[:, 1], model.coarse(h[:, :4]), atol=1e-5)
    assert torch.allclose(of_f[:, 1], model.fine(h[:, 4:]), atol=1e-5)


def test_the_coarse_byte_does_not_see_itself_and_the_fine_byte_sees_it() -> None:
    model, samples = WaveRNN(8, 4), wave(1, 4)
    other = samples.clone()
    other[0, 3] += 256
    (of_c, of_f), (of_c2, of_f2) = model(samples), model(other)
    assert torch.equal(of_c, of_c2) and torch.equal(of_f[:, :2], of_f2[:, :2])
    assert not torch.allclose(of_f[:, 2], of_f2[:, 2])


def test_samples_are_drawn_from_what_the_net_says() -> None:
    model = WaveRNN(8, 4)
    with torch.no_grad():
        for head, byte in ((model.coarse, 77), (model.fine, 200)):
            head[2].bias.zero_()
            head[2].weight.zero_()
            head[2].bias[byte] = 50.0
    assert model.sample(4).tolist() == [[32768, *[77 * 256 + 200] * 3]]
    fresh = WaveRNN(8, 4)
    assert torch.equal(fresh.sample(6, 2, seed=3), fresh.sample(6, 2, seed=3))


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match="even width"):
        WaveRNN(7)
    with pytest.raises(DataError, match="at least two samples"):
        WaveRNN(8)(torch.zeros(3, 1, dtype=torch.long))
