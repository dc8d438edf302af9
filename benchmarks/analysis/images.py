"""MNIST, 2,000 images to train on and 2,000 to test, 784-128-64-10 and 400 steps as in benchmarks/training/checks.py,
where nothing else is said; MLPNet (784-40-20-10) as published on all 10,000 test images."""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from checks import Check
from checks_images import STEPS, loss_of, mnist, trained
from chita_models import accuracy as accuracy_on
from chita_models import mlpnet
from claims import Data, accuracy, loop, net
from torch import Tensor, nn

import rarefy
from rarefy.analysis.edge_of_chaos import initialise, survival
from rarefy.analysis.graph_net import GraphNet
from rarefy.analysis.random_graphs import scale_free, small_world
from rarefy.analysis.random_search import Nodes, random_nodes, search_baseline
from rarefy.analysis.sketch_bound import magnitude_compression, sketch_bound
from rarefy.analysis.structure_study import predict_performance
from rarefy.analysis.transfer_study import Task, transfer_study
from rarefy.analysis.variational_dropout import drop_noise, train_noise
from rarefy.analysis.zoo_twins import Twins, layer_distance, lead, zoo_twins
from rarefy.core.site import Site, find_sites
from rarefy.schedules.constant import Constant
from rarefy.schedules.cosine import Cosine
from rarefy.scores.random import Random
from rarefy.scores.snip import Snip
from rarefy.training.turbo_vbi import runs

TITLE = "Small nets on images"
Rows = list[tuple[str, float, float]]


def brief(model: nn.Module, data: Data, steps: int, seed: int, held: bool = True) -> float:
    """Per cent after some steps of training in which zeros stay (or not)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    trainer = rarefy.sparse_training(model, optimizer, "static", start="given", ignore=["4"]) if held else None
    loop(model, optimizer, trainer.step if trainer else optimizer.step, data, steps, seed)
    return accuracy(model, data)


# random search


class Masked(nn.Module):
    """A unit for each of 196 pixels and 196 columns of noise beside them, then 32 hidden units."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.take, self.mix, self.out = nn.Linear(392, 392, bias=False), nn.Linear(392, 32), nn.Linear(32, 10)
        with torch.no_grad():
            self.take.weight.copy_(torch.eye(392))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.mix(self.take(x))))


def _oracle(sites: Sequence[Site], sparsity: float, generator: torch.Generator) -> Nodes:
    """Drops columns of noise first; otherwise as many as a random draw."""
    nodes = random_nodes(sites, sparsity, generator)
    nodes["take"] = torch.arange(392) < int(nodes["take"].sum())
    return nodes


def _small(x: Tensor) -> Tensor:
    """14 x 14 pixels of each image."""
    return F.avg_pool2d(x.view(-1, 1, 28, 28), 2).flatten(1)


def _with_noise(x: Tensor, seed: int) -> Tensor:
    return torch.cat([_small(x), torch.randn(len(x), 196, generator=torch.Generator().manual_seed(seed))], 1)


def _search(path: Path, sparsity: float, oracle: bool) -> Any:
    data = mnist(path)
    if oracle:
        data = (_with_noise(data[0][:500], 1), data[1][:500], _with_noise(data[2], 2), data[3])

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            return -float(F.cross_entropy(model(data[0][:300]), data[1][:300]))

    def train(model: nn.Module) -> float:
        fixed = {id(p) for p in model.take.parameters()} if oracle else set()  # type: ignore[operator]
        optimizer = torch.optim.Adam([p for p in model.parameters() if id(p) not in fixed], lr=2e-3)
        loop(model, optimizer, optimizer.step, data, 120, 0)
        return accuracy(model, data)

    if oracle:
        return search_baseline(Masked, sparsity, score, train, trials=2, seeds=8, draw=_oracle)
    return search_baseline(lambda seed: net(64, seed), sparsity, score, train, trials=20, seeds=8)


_cached_search = functools.cache(_search)


def searched(path: Path, seed: int) -> Rows:
    """Eight seeds, 120 steps."""
    rows = []
    for sparsity in (0.5, 0.7, 0.9):
        found = _cached_search(path, sparsity, False)
        label = f"random-search-baseline: best of 20 over one draw, {sparsity:.0%} of the units out"
        rows.append((label, sum(found.searched) / 8, sum(found.single) / 8))
    found, label = _cached_search(path, 0.5, True), "random-search-baseline: an oracle over one draw, 50 %"
    return [*rows, (label, sum(found.searched) / 8, sum(found.single) / 8)]


def chances(path: Path, seed: int) -> Rows:
    rows = [
        (f"random-search-baseline: p of the difference over 0.05, {s:.0%}", _cached_search(path, s, False).p, 0.05)
        for s in (0.5, 0.7, 0.9)
    ]
    return [*rows, ("random-search-baseline: 0.01 over p of the oracle", 0.01, _cached_search(path, 0.5, True).p)]


# transfer


def _digits(data: Data, low: int, high: int) -> Data:
    parts = []
    for x, y in (data[:2], data[2:]):
        some = (y >= low) & (y < high)
        parts += [x[some], y[some] - low]
    return tuple(parts)  # type: ignore[return-value]


def transferred(path: Path, seed: int) -> Rows:
    """Trained on 0 to 4, 90 % of the weights out, then 5 to 9: a new head, or all that is left."""
    data = mnist(path)
    first, second = _digits(data, 0, 5), _digits(data, 5, 10)

    def backbone(name: str | None, **options: Any) -> nn.Module:
        model = net(128, seed)
        return trained(name, first, seed, model=model, **options)[0][:4]  # type: ignore[index,no-any-return]

    dense = backbone(None)
    cut = copy.deepcopy(dense)
    rarefy.prune(cut, "magnitude", sparsity=0.9)
    pruned = {
        "one cut": cut,
        "gmp-zhu-gupta": backbone("gmp-zhu-gupta", sparsity=0.9, every=20),
        "rigl": backbone("rigl", sparsity=0.9, every=20),
        "acdc": backbone("acdc", sparsity=0.9, every=20),
    }
    task = Task("5 to 9", (second[0], second[1]), (second[2], second[3]), 5)
    base, *rows = transfer_study(dense, pruned, [task], seed=seed)
    assert not any(row.flaws for row in rows), rows
    return [
        (f"sparse-transfer-study: {row.name}, 90 %, {how}, below dense", 100 * ours[0].error, 100 * theirs[0].error)
        for row in rows
        for how, ours, theirs in (("a new head", row.linear, base.linear), ("all trained on", row.full, base.full))
    ]


# a zoo


@functools.cache
def _twins(path: Path) -> dict[str, list[Twins]]:
    data = mnist(path)
    zoo = []
    for number in range(10):
        torch.manual_seed(number)
        steps = 60 + 24 * number
        zoo.append(trained(None, data, number, model=net(32, number), steps=steps)[0])
    batches = [(data[0][i : i + 100], data[1][i : i + 100]) for i in range(0, 2000, 100)]

    def by(method: str) -> Callable[[nn.Module, float, int], None]:
        def sparsify(model: nn.Module, sparsity: float, number: int) -> None:
            if method == "variational dropout":
                noise = train_noise(model, batches, loss_of, epochs=4, warm=1, rate=1e-3, samples=2000, seed=number)
                drop_noise(model, noise, sparsity=sparsity)
            else:
                rarefy.prune(model, method, sparsity=sparsity, allocation="global", seed=number)
            brief(model, data, 60, number)

        return sparsify

    sparsities = (0.5, 0.8, 0.95)
    return {
        method: zoo_twins(zoo, by(method), data[2], data[3], sparsities=sparsities)
        for method in ("magnitude", "random", "variational dropout")
    }


def twins(path: Path, seed: int) -> Rows:
    """Ten nets of width 32 trained for 60 to 276 steps; each pruned, one budget, and tuned for 60 steps."""
    found = _twins(path)
    return [
        (f"sparsified-model-zoo-twins: magnitude over {rival}, {ours.sparsity:.0%}", 100 * ours.mean, 100 * theirs.mean)
        for rival in ("random", "variational dropout")
        for ours, theirs in zip(found["magnitude"], found[rival], strict=True)
    ]


def agreement(path: Path, seed: int) -> Rows:
    found = _twins(path)["magnitude"]
    shares = [100 * sum(t.agreement) / len(t.agreement) for t in found]
    return [("sparsified-model-zoo-twins: same calls as the original, 50 % over 95 % zeros", shares[0], shares[2])]


def twin_figures(path: Path, seed: int) -> Rows:
    found = _twins(path)
    ours, other = found["magnitude"][1], found["variational dropout"][1]
    sure = lead(ours, other)
    label = "sparsified-model-zoo-twins: magnitude's lead over variational dropout, 80 %, interval over 0: "
    return [
        ("sparsified-model-zoo-twins: correlation of twins and originals, 50 % over 95 %",
         found["magnitude"][0].correlation, found["magnitude"][2].correlation),
        (label + "low end", 100 * sure.interval[0], 0.0),
        (label + "high end", 100 * sure.interval[1], 0.0),
        ("sparsified-model-zoo-twins: distance of the shares by layer from variational dropout's, over 0",
         layer_distance(ours, other), 0.0),
    ]  # fmt: skip


# structure


def structures(path: Path, seed: int) -> Rows:
    """40 graph nets of 6 to 40 neurons on 14 x 14 pixels, 80 steps each; a forest tells their accuracy."""
    whole, made, found = mnist(path), [], []
    data = (_small(whole[0]), whole[1], _small(whole[2]), whole[3])
    for number in range(40):
        nodes = 6 + 34 * number // 39
        made.append(small_world(nodes, 4, 0.3, number) if number % 2 else scale_free(nodes, 2, number))
        model = GraphNet(made[-1], 196, 10, seed=number)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        loop(model, optimizer, optimizer.step, data, 80, number)
        found.append(accuracy(model, data))
    told = predict_performance(made, found, shuffles=20, trees=50)
    return [
        ("sparse-structure-properties: R2 of the forest over 0.2", told.r2, 0.2),
        ("sparse-structure-properties: R2 of the forest over the best of 20 shuffles", told.r2, max(told.shuffled)),
    ]


def class_blind(path: Path, seed: int) -> Rows:
    """90 % out by magnitude in three rounds of training: one budget, or as many in every layer."""
    data, found = mnist(path), []
    dense = trained(None, data, seed, steps=200)[0]
    for allocation in ("global", "uniform"):
        model = copy.deepcopy(dense)
        for sparsity in (0.5, 0.8, 0.9):
            rarefy.prune(model, "magnitude", sparsity=sparsity, allocation=allocation, ignore=["4"])
            brief(model, data, 70, seed)
        found.append(accuracy(model, data))
    return [("sparse-structure-properties: class-blind over class-uniform, 90 %", found[0], found[1])]


# bounds


def bounds(path: Path, seed: int) -> Rows:
    """MLPNet, 55,000 training images: numbers that the sketch of the pruned net needs; its own are 32,360."""
    case = mlpnet(path)
    rows, before = [], math.inf
    for sparsity in (0.0, 0.9, 0.98):
        model = copy.deepcopy(case.model)
        if sparsity:
            rarefy.prune(model, "magnitude", sparsity=sparsity, allocation="global")
        found = sketch_bound(model, len(case.train[1]), 1 - accuracy_on(model, case.train) / 100)
        assert found.complexity <= before
        before = found.complexity
        wrong = 1 - accuracy_on(model, case.test) / 100
        label = f"sketch-magnitude-bound: MLPNet at {sparsity:.0%}, "
        rows += [(label + "numbers of the sketch below its weights", found.complexity / 32360, 1.0)]
        rows += [(label + "bound below 1, which says nothing", found.bound, 1.0)]
        rows += [(label + "test error below the bound", wrong, found.bound)]
    return rows


def deviations(path: Path, seed: int) -> Rows:
    """Squared change of the first layer of MLPNet, in units of its squared weights, and what the theory allows."""
    weight = mlpnet(path).model.fc1.weight.detach()  # type: ignore[union-attr]
    d, rows = max(weight.shape), []
    for share in (0.1, 1.0):
        psi = share * float(weight.square().mean()) / d
        left = magnitude_compression(weight, psi, torch.Generator().manual_seed(seed))
        size = float(weight.double().square().sum())
        change = float((weight - left).double().square().sum()) / size
        allowed = weight.numel() * d * psi / math.e / size
        gone = float((left == 0).double().mean())
        label = f"sketch-magnitude-bound: change of fc1 at psi = {share} of the mean square / d, below "
        rows += [(label + "what is allowed", change, allowed), (label + "the share of weights that went", change, gone)]
    return rows


# the edge of chaos


def _deep(activation: type[nn.Module], width: int, depth: int = 30) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(784, width), activation()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def emptied(path: Path, seed: int) -> Rows:
    """30 tanh layers of width 100, 90 % out by SNIP with one budget: layers without a weight."""
    data, counts = mnist(path), []
    batch = [(data[0][:500], data[1][:500])]
    for weights, biases in ((1.0, 0.0), (1.0, 1.0)):
        model = _deep(nn.Tanh, 100)
        initialise(model, "tanh", weight_variance=weights, bias_variance=biases, seed=seed)
        rarefy.prune(model, "robust-pai", sparsity=0.9, data=batch, loss=loss_of, rescale=False, seed=seed)
        counts.append(sum(left == 0 for left in survival(find_sites(model)[0]).values()))
    return [("edge-of-chaos: empty layers at (1, 0) below those at (1, 1)", float(counts[0]), float(counts[1]))]


def variances(path: Path, seed: int) -> Rows:
    """log10 of the variance behind 30 ReLU layers of width 300, 90 % out, over that of the whole net."""
    data, rows = mnist(path), []
    batch = [(data[0][:300], data[1][:300])]
    for score in (Random(), Snip()):
        found = []
        for rescale in (None, True, False):
            model = _deep(nn.ReLU, 300)
            initialise(model, "relu", seed=seed)
            if rescale is not None:
                options: dict[str, Any] = {"score": score, "rescale": rescale, "allocation": "uniform", "seed": seed}
                rarefy.prune(model, "robust-pai", sparsity=0.9, data=batch, loss=loss_of, **options)
            with torch.no_grad():
                found.append(float(model.double()[:-1](data[2][:200].double()).square().mean()))
        ours, theirs = (abs(math.log10(max(v, 1e-300) / found[0])) for v in found[1:])
        name = "random" if isinstance(score, Random) else "SNIP's"
        rows.append((f"edge-of-chaos: {name} masks rescaled, below as they are", ours, theirs))
    return rows


# schedules and priors


def drops(path: Path, seed: int) -> Rows:
    """The share of the weights that moves every 20 steps of 400: on half a cosine, or the same at all times."""
    data, rows = mnist(path), []
    end = round(0.75 * STEPS)
    for name, options in (("rigl", {}), ("set", {"end": 0.75})):
        found = []
        for schedule in (Cosine(0.3, 0.0, end), Constant(0.3)):
            made, _ = trained(name, data, seed, sparsity=0.95, every=20, schedule=schedule, **options)
            found.append(accuracy(made, data))
        rows.append((f"{name}, 95 %: cosine over constant", found[0], found[1]))
    return rows


@functools.cache
def _turbo(path: Path, seed: int) -> dict[str, tuple[float, float]]:
    """{prior or rival: (per cent, runs of kept weights a row of the first layer)}."""
    data, found = mnist(path), {}
    for label, name, options in (
        ("rows", "turbo-vbi-structured-bayes", {"along": "rows"}),
        ("independent", "turbo-vbi-structured-bayes", {"along": "independent"}),
        ("gradual magnitude", "gmp-zhu-gupta", {}),
    ):
        model, _ = trained(name, data, seed, sparsity=0.9, every=20, **options)
        mask = model[0].weight.detach() != 0  # type: ignore[index]
        found[label] = (accuracy(model, data), runs(mask) / len(mask))
    return found


def priors(path: Path, seed: int) -> Rows:
    found = _turbo(path, seed)
    return [(f"turbo-vbi-structured-bayes, 90 %: chains over {rival}", found["rows"][0], found[rival][0])
            for rival in ("independent", "gradual magnitude")]  # fmt: skip


def contiguous(path: Path, seed: int) -> Rows:
    found = _turbo(path, seed)
    label = "turbo-vbi-structured-bayes, 90 %: runs of kept weights a row, below "
    return [(label + rival, found["rows"][1], found[rival][1]) for rival in ("independent", "gradual magnitude")]


CHECKS: dict[str, Check] = {
    "searched": Check(searched, "% right"),
    "chances": Check(chances, "p"),
    "transferred": Check(transferred, "% wrong", more=False),
    "twins": Check(twins, "% right"),
    "agreement": Check(agreement, "% of the images"),
    "twin-figures": Check(twin_figures, "correlation, points or shares"),
    "structures": Check(structures, "R2"),
    "class-blind": Check(class_blind, "% right"),
    "bounds": Check(bounds, "share", more=False),
    "deviations": Check(deviations, "share", more=False),
    "emptied": Check(emptied, "layers", more=False),
    "variances": Check(variances, "powers of ten", more=False),
    "drops": Check(drops, "% right"),
    "priors": Check(priors, "% right"),
    "contiguous": Check(contiguous, "runs", more=False),
}
SEEDS = {"transferred": 3, "class-blind": 3, "emptied": 2, "drops": 3}
