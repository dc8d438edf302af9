"""Low rank plus fixed sparse entries: what is trained, what is kept in memory, and what low rank alone cannot do."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import ModelError, SparsityError
from rarefy.training.sltrain import LowRankSparseLinear, composed, merge_sltrain, sltrain


def net(width: int = 48) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 4))


def steps(model: nn.Module, count: int, optimizer: torch.optim.Optimizer | None = None, first: int = 0) -> list[float]:
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 32, generator=generator)
        loss = nn.functional.cross_entropy(model(x), x[:, :4].argmax(1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_what_is_trained_is_exactly_the_pair_and_the_entries_and_the_places_never_change() -> None:
    model = net()
    report = sltrain(model, rank=4, sparsity=0.97, ignore=["4"])
    expected = sum(4 * (m + n) + round(0.03 * m * n) for m, n in ((48, 32), (32, 48)))
    assert report.trained == expected and report.layers == ("0", "2") and report.dense == 2 * 48 * 32
    assert sum(p.numel() for p in model.parameters()) == expected + 48 + 32 + 32 * 4 + 4
    places = [model[0].index.clone(), model[2].index.clone()]
    losses = steps(model, 200)
    assert torch.equal(places[0], model[0].index) and torch.equal(places[1], model[2].index)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_gradients_are_those_of_the_composed_weight() -> None:
    layer = LowRankSparseLinear(6, 5, 2, 7, 0.5, torch.Generator().manual_seed(0)).double()
    nn.init.normal_(layer.b)
    x = torch.randn(2, 3, 6, dtype=torch.double, requires_grad=True)
    arguments = (layer.b, layer.a, layer.values)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *arguments))
    layer.zero_grad()
    layer(x).square().sum().backward()
    weight = composed(*(p.detach() for p in arguments), layer.index, 0.5).requires_grad_(True)
    nn.functional.linear(x.detach(), weight).square().sum().backward()
    assert torch.allclose(layer.values.grad, weight.grad.flatten()[layer.index])


def no_matrix_is_kept(layer: nn.Module) -> None:
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() if tensor.is_floating_point() else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(4, 64, requires_grad=True)).sum().backward()
    assert max(sizes) < 64 * 80, "a float tensor of the weight's size is kept for the backward pass"


def test_nothing_of_the_weights_size_is_kept_for_the_backward_pass() -> None:
    model = nn.Sequential(nn.Linear(64, 80))
    sltrain(model, rank=4)
    assert_beats_impostor(no_matrix_is_kept, model, nn.Linear(64, 80))


class LowRank(nn.Module):
    def __init__(self, rank: int) -> None:
        super().__init__()
        self.b, self.a = nn.Parameter(torch.randn(32, rank) * 0.1), nn.Parameter(torch.randn(rank, 32) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.b @ self.a).t()


def beats_low_rank_of_its_size(layer: nn.Module) -> None:
    """Fitted is a random orthogonal matrix: 256 entries of a low-rank pair take 4 of its 32 equal singular values.

    (For a Gaussian matrix it is the other way round: its largest singular values are worth more than random entries.)
    """
    goal = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))[0]
    assert sum(p.numel() for p in layer.parameters()) <= 4 * 64 + 1
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(600):
        (layer(torch.eye(32)).t() - goal).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    found = layer(torch.eye(32)).t().detach()
    s = torch.linalg.svdvals(goal)
    assert torch.linalg.matrix_rank(found) > 4
    assert float((found - goal).norm()) < 0.98 * float(s[4:].norm())


def test_it_fits_a_full_rank_target_better_than_low_rank_with_as_many_entries() -> None:
    model = nn.Sequential(nn.Linear(32, 32, bias=False))
    sltrain(model, rank=2, sparsity=1 - 128 / 1024)
    torch.manual_seed(0)
    assert_beats_impostor(beats_low_rank_of_its_size, model, LowRank(4))


def test_saved_and_resumed_bit_for_bit_and_merged_into_plain_layers() -> None:
    whole, half, again = net(), net(), net()
    for model, seed in ((whole, 0), (half, 0), (again, 5)):
        sltrain(model, rank=3, seed=seed)
    expected = steps(whole, 12)
    optimizer = torch.optim.AdamW(half.parameters(), lr=1e-2)
    found = steps(half, 6, optimizer)
    stream = io.BytesIO()
    torch.save([half.state_dict(), optimizer.state_dict()], stream)
    stream.seek(0)
    states = torch.load(stream, weights_only=True)
    again.load_state_dict(states[0])
    optimizer = torch.optim.AdamW(again.parameters(), lr=1e-2)
    optimizer.load_state_dict(states[1])
    assert found + steps(again, 6, optimizer, 6) == expected
    plain = copy.deepcopy(again)
    assert merge_sltrain(plain) == ["0", "2", "4"] and type(plain[2]) is nn.Linear
    x = torch.randn(3, 32)
    assert torch.allclose(plain(x), again(x), atol=1e-6)
    assert list(plain.state_dict()) == list(net().state_dict())


def test_under_autocast_and_bad_input() -> None:
    model = net()
    sltrain(model, rank=2)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(4, 32)).float().square().sum().backward()
    assert model[0].values.grad.dtype == torch.float32 and bool(model[0].b.grad.any())
    with pytest.raises(SparsityError, match="rank 9"):
        sltrain(net(), rank=9)
    with pytest.raises(SparsityError, match="without an entry"):
        sltrain(net(), rank=2, sparsity=0.9999)
    with pytest.raises(ModelError, match="matches none"):
        sltrain(net(), rank=2, ignore=["head"])
    with pytest.raises(ModelError, match="is a Linear itself; put it into"):
        sltrain(nn.Linear(4, 4), rank=1)
    tied = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(ModelError, match="shares its parameters"):
        sltrain(tied, rank=1)
