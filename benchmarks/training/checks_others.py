"""The checks on made data: a recommender, a graph and an audio-like sequence."""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from checks import Check
from torch import Tensor, nn

import rarefy
from rarefy.training.dsl_recommendation import dynamic_sparse_learning
from rarefy.training.fixed import Fixed
from rarefy.training.method import SparseMethod
from rarefy.training.teddy import keep_edges
from rarefy.training.wavernn import WaveRNN

Rows = list[tuple[str, float, float]]


class Factors(nn.Module):
    """Ratings as products of user and item vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(300, width), nn.Embedding(400, width)

    def scores(self) -> Tensor:
        return self.user.weight @ self.item.weight.t()


def clicks(seed: int) -> tuple[Tensor, Tensor]:
    """What 300 users took of 400 items, seen and unseen (bool): by taste of eight sides and by a skewed popularity."""
    generator = torch.Generator().manual_seed(seed)
    taste = torch.randn(300, 8, generator=generator) @ torch.randn(8, 400, generator=generator)
    popular = -1.2 * torch.log(torch.arange(1.0, 401.0))
    chance = (1.2 * taste + popular).softmax(1)
    taken = torch.zeros(300, 400, dtype=torch.bool).scatter_(
        1, torch.multinomial(chance, 40, generator=generator), True
    )
    hidden = taken & (torch.rand(300, 400, generator=generator) < 0.25)
    return taken & ~hidden, hidden


def recall(model: Factors, seen: Tensor, unseen: Tensor) -> float:
    """Recall at 20, per cent."""
    with torch.no_grad():
        best = model.scores().masked_fill(seen, -math.inf).topk(20, dim=1).indices
    found = unseen.gather(1, best).sum(1)
    users = unseen.any(1)
    return 100.0 * float((found[users] / unseen[users].sum(1).clamp_max(20)).mean())


def recommender(path: Path, seed: int) -> Rows:
    """Width 32 with 80 % zeros that move, that stand still, and a dense width of 6 (a fifth of the entries)."""
    seen, unseen = clicks(seed)
    positives, found = seen.nonzero(), {}
    for name, width in (("moving", 32), ("fixed", 32), ("dense", 6)):
        torch.manual_seed(seed)
        model = Factors(width)
        with torch.no_grad():
            for table in (model.user, model.item):
                table.weight.mul_(0.1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        trainer: Any = optimizer
        if name != "dense":
            method = dynamic_sparse_learning(every=20)
            if name == "fixed":
                method = SparseMethod(method.start, Fixed(), embeddings=True)
            trainer = rarefy.sparse_training(model, optimizer, method, sparsity=0.8, total_steps=600, seed=seed)
        order = torch.Generator().manual_seed(seed + 1)
        for _ in range(600):
            pairs = positives[torch.randint(len(positives), (1024,), generator=order)]
            other = torch.randint(400, (1024,), generator=order)
            user = model.user(pairs[:, 0])
            gap = (user * (model.item(pairs[:, 1]) - model.item(other))).sum(1)
            (-F.logsigmoid(gap).mean()).backward()
            trainer.step()
            trainer.zero_grad()
        found[name] = recall(model, seen, unseen)
    return [
        ("dsl-recommendation, 80 %, over a random mask that stands still", found["moving"], found["fixed"]),
        ("dsl-recommendation, 80 %, over a dense table of as many entries", found["moving"], found["dense"]),
    ]


def graph(seed: int, nodes: int = 1000, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Edges (2, edges) of a stochastic block model with hubs, features of the nodes (weak), and their classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (nodes,), generator=generator)
    weight = torch.rand(nodes, generator=generator).pow(-0.5).clamp_max(6.0)  # some have many more neighbours
    chance = torch.where(y[:, None] == y, 0.004, 0.0004) * weight[:, None] * weight
    upper = torch.triu(torch.rand(nodes, nodes, generator=generator) < chance, 1)
    x = torch.randn(nodes, 32, generator=generator)
    x[torch.arange(nodes), y] += 1.0
    return (upper | upper.t() | torch.eye(nodes, dtype=torch.bool)).nonzero().t(), x, y


def classified(edges: Tensor, x: Tensor, y: Tensor, seed: int) -> float:
    """Test accuracy, per cent, of a graph net of two layers that saw the classes of 15 % of the nodes."""
    nodes = len(x)
    degree = torch.zeros(nodes).index_add_(0, edges[1], torch.ones(edges.shape[1]))
    values = (degree[edges[0]] * degree[edges[1]]).rsqrt()
    adjacency = torch.sparse_coo_tensor(edges.flip(0), values, (nodes, nodes)).coalesce().to_dense()
    torch.manual_seed(seed)
    first, second = nn.Linear(32, 32), nn.Linear(32, int(y.max()) + 1)
    optimizer = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=0.01, weight_decay=5e-3)
    known = torch.rand(nodes, generator=torch.Generator().manual_seed(seed + 5)) < 0.15
    for _ in range(100):
        logits = adjacency @ second(torch.relu(adjacency @ first(x)))
        F.cross_entropy(logits[known], y[known]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return 100.0 * float((logits.argmax(1) == y)[~known].float().mean())


def edges_out(path: Path, seed: int) -> Rows:
    """Half of the edges out of a graph of blocks: those that score lowest, any, or those that score highest."""
    edges, x, y = graph(seed)
    nodes, loops = len(x), edges[0] == edges[1]
    kept = keep_edges(edges, nodes, 0.5)
    numbers = edges[0] * nodes + edges[1]
    low = ~torch.isin(numbers, kept[0] * nodes + kept[1])
    rest = edges[:, low | loops]  # what scores lowest, in place of what scores highest
    chance = torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(seed + 3))
    order = torch.where(loops, -1.0, chance[edges.min(0).values, edges.max(0).values])  # both ways of an edge together
    some = edges[:, order <= order.sort().values[kept.shape[1] - 1]]
    ours, theirs, any_ = (classified(e, x, y, seed) for e in (kept, rest, some))
    return [
        ("teddy: without the lowest half of the edges over without the highest", ours, theirs),
        ("teddy: without the lowest half of the edges over without any half", ours, any_),
    ]


def sound(count: int, time: int, seed: int) -> Tensor:
    """(count, time) samples of two tones with noise, 16 bits."""
    generator = torch.Generator().manual_seed(seed)
    phase = 6.3 * torch.rand(count, 2, 1, generator=generator)
    pitch = torch.tensor([0.3, 0.41])[:, None] * (1 + 0.3 * torch.rand(count, 2, 1, generator=generator))
    wave = torch.sin(phase + pitch * torch.arange(time)).sum(1) + 0.02 * torch.randn(count, time, generator=generator)
    return (32768 + 12000 * wave).long().clamp(0, 65535)


def large_and_sparse(path: Path, seed: int) -> Rows:
    """A recurrent layer of 256 with 94 % zeros in 16 x 1 blocks, and a dense one of 64 with as many weights."""
    found, unseen = [], sound(128, 24, 10_000 + seed)
    for width in (256, 64):
        torch.manual_seed(seed)
        model = WaveRNN(width, 64)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        trainer: Any = optimizer
        if width == 256:
            trainer = rarefy.sparse_training(
                model, optimizer, "sparse-wavernn", sparsity=1 - 64**2 / 256**2, every=10, begin=0.1, end=0.6,
                total_steps=400, ignore=["past", "now", "coarse", "fine"],
            )  # fmt: skip
        for step in range(400):
            model.loss(sound(32, 24, 1000 * seed + step)).backward()
            trainer.step()
            trainer.zero_grad()
        with torch.no_grad():
            found.append(float(model.loss(unseen)))
    return [("sparse-wavernn, 256 units, 94 %, over 64 dense units", found[0], found[1])]


CHECKS: dict[str, Check] = {
    "recommender": Check(recommender, "recall at 20, %"),
    "edges": Check(edges_out, "% right"),
    "sound": Check(large_and_sparse, "nats a sample", more=False),
}
