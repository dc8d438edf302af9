"""Random search in node space: the harness that any search for a sparse architecture has to beat."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.core.seeds import own_generator
from rarefy.core.site import Site, find_sites

Nodes = dict[str, Tensor]  # site -> which of its outputs stay, (out,) bool


@dataclass(frozen=True)
class Comparison:
    """Paired over seeds: `searched` and `single` are qualities after training; `p` of their difference being zero.

    initial: (score of the best of the trials, of the single draw) before training, per seed. interval: of the mean
    difference, searched minus single, at 95 %: all differences that the same sign-flip test does not refuse at 5 %.
    """

    searched: tuple[float, ...]
    single: tuple[float, ...]
    initial: tuple[tuple[float, float], ...]
    p: float
    interval: tuple[float, float]

    @property
    def gain(self) -> float:
        """Mean difference of the qualities, searched minus single."""
        return sum(a - b for a, b in zip(self.searched, self.single, strict=True)) / len(self.searched)


def random_nodes(sites: Sequence[Site], sparsity: float, generator: torch.Generator) -> Nodes:
    """A random share of the outputs of every site but the last, whose outputs are the model's."""
    kept = {}
    for site in sites[:-1]:
        count = max(1, round((1.0 - sparsity) * site.shape[0]))
        chosen = torch.randperm(site.shape[0], generator=generator)[:count]
        kept[site.name] = torch.zeros(site.shape[0], dtype=torch.bool).index_fill(0, chosen, True)
    return kept


def keep_nodes(sites: Sequence[Site], nodes: Nodes) -> list[Callable[[], None]]:
    """Zeroes the dropped outputs (weights and biases) and holds them at zero under any optimizer without decay.

    Returns functions that let go of the hold.
    """
    holds = []
    for site in sites:
        if site.name not in nodes:
            continue
        rows = nodes[site.name]
        site.write(site.read(), rows[:, None].expand(site.shape))
        mask = rows[:, None].expand(site.shape)
        shaped = (mask.t() if site.transposed else mask.reshape(site.parameter.shape)).to(site.parameter.dtype)
        holds.append(site.parameter.register_hook(lambda grad, m=shaped: grad * m).remove)
        for bias in site.biases:
            with torch.no_grad():
                bias.mul_(rows.to(bias.dtype))
            holds.append(bias.register_hook(lambda grad, m=rows: grad * m.to(grad.dtype)).remove)
    return holds


@method("random-search-baseline", role="study", source="Farahani 2024, arXiv:2403.08265, section 3")
def search_baseline(
    make: Callable[[int], nn.Module],
    sparsity: float,
    score: Callable[[nn.Module], float],
    train: Callable[[nn.Module], float],
    *,
    trials: int = 20,
    seeds: int = 8,
    draw: Callable[[Sequence[Site], float, torch.Generator], Nodes] = random_nodes,
) -> Comparison:
    """Best of `trials` random sub-networks by their score before training, against one random draw, both trained.

    make: a fresh model of a seed; score: of an untrained candidate, larger is better; train: trains in place and
    returns the quality. draw: what a search proposes (an oracle that knows something has to be told apart).
    p: exact sign-flip test of the paired differences; 8 seeds can show 1/128, and fewer than 6 no interval.
    """
    if trials < 1 or seeds < 2:
        raise SparsityError(f"search_baseline: trials={trials} and seeds={seeds}; give at least 1 and 2")
    searched, single, initial = [], [], []
    for seed in range(seeds):
        generator = own_generator(seed, "random search")
        candidates = [draw(find_sites(make(seed))[0], sparsity, generator) for _ in range(trials)]
        scores = [_scored(make(seed), nodes, score) for nodes in candidates]
        best = candidates[scores.index(max(scores))]
        other = random_nodes(find_sites(make(seed))[0], sparsity, generator)
        initial.append((max(scores), _scored(make(seed), other, score)))
        searched.append(_trained(make(seed), best, train))
        single.append(_trained(make(seed), other, train))
    differences = [a - b for a, b in zip(searched, single, strict=True)]
    interval = not_refused(differences)
    return Comparison(tuple(searched), tuple(single), tuple(initial), sign_flip(differences), interval)


def _scored(model: nn.Module, nodes: Nodes, score: Callable[[nn.Module], float]) -> float:
    keep_nodes(find_sites(model)[0], nodes)
    return score(model)


def _trained(model: nn.Module, nodes: Nodes, train: Callable[[nn.Module], float]) -> float:
    keep_nodes(find_sites(model)[0], nodes)
    return train(model)


def sign_flip(differences: Sequence[float], draws: int = 4096, seed: int = 0) -> float:
    """Two-sided p of a mean difference of zero: how often random signs give as large a sum; exact up to 12 values."""
    size = abs(sum(differences)) * (1 - 1e-12)
    if len(differences) <= 12:
        signs = list(itertools.product((-1, 1), repeat=len(differences)))
    else:
        chance = random.Random(seed)
        signs = [tuple(chance.choice((-1, 1)) for _ in differences) for _ in range(draws)]
    sums = [abs(sum(s * d for s, d in zip(row, differences, strict=True))) for row in signs]
    return sum(value >= size for value in sums) / len(sums)


def not_refused(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The shifts d for which `sign_flip` of the differences less d gives p above 1 - level: (least, largest).

    p rises towards the mean from both sides, so each end is found by halving. Infinite where so few differences can
    refuse nothing: 6 are the least for 95 %.
    """
    mean = sum(differences) / len(differences)
    reach = 2.0 * (max(differences) - min(differences)) + 1e-12 * max(1.0, abs(mean))

    def refused(shift: float) -> bool:
        return sign_flip([d - shift for d in differences]) <= 1.0 - level

    ends = []
    for side in (-1.0, 1.0):
        inside, outside = mean, mean + side * reach
        if not refused(outside):
            ends.append(side * math.inf)
            continue
        for _ in range(40):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if refused(middle) else (middle, outside)
        ends.append(inside)
    return ends[0], ends[1]
