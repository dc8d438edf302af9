"""The Llama-shaped model of bytes (6 blocks, width 256, SiLU), bits a byte on 16 unseen windows of 256 bytes of SciFact
(24 windows of the text before them to calibrate on), where nothing else is said."""

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from checks import Check
from language_model import WINDOW, text_of
from torch import Tensor, nn

import rarefy
from rarefy.analysis.essential_sparsity import Knee, essential_sparsity
from rarefy.analysis.secretly_linear import replace_block, secretly_linear
from rarefy.analysis.sparsing_law import ppl_sparsity
from rarefy.calibration.layer_inputs import layer_inputs
from rarefy.coding.logistic import fit_logistic
from rarefy.coding.sparse_probing import quality, sparse_probing
from rarefy.core.slicing import weight_rows
from rarefy.patterns.nm import NM
from rarefy.recipes.evaluations.language import Perplexity, batches_of, next_token_loss, windows
from rarefy.scores.magnitude import Magnitude
from rarefy.scores.random import Random
from rarefy.selectors import feed_forwards
from rarefy.structured.ffsplit import FFSplit, output_norms

TITLE = "A trained Llama of bytes"
Rows = list[tuple[str, float, float]]
CALIBRATION, UNSEEN = 24, 16


@functools.cache
def _loaded(data: Path) -> nn.Module:
    return rarefy.load(data / "weights" / "llama-4m-bytes")


def llama(data: Path) -> nn.Module:
    return copy.deepcopy(_loaded(data))


@functools.cache
def judge(data: Path, unseen: int = UNSEEN) -> Perplexity:
    return Perplexity(text_of(data)[1][: unseen * WINDOW].view(-1, WINDOW))


def bits(model: nn.Module, data: Path, unseen: int = UNSEEN) -> float:
    return judge(data, unseen)(model)["bits_per_byte"]


def calibration(data: Path, seed: int, count: int = CALIBRATION, rows: int = 8) -> list[dict[str, Tensor]]:
    return batches_of(windows(text_of(data)[0], WINDOW, count, seed), rows)


@functools.cache
def _sweep(path: Path, score: Any) -> Knee:
    grid, model = tuple(0.05 * i for i in range(1, 17)), llama(path)
    return essential_sparsity(model, lambda m: -bits(m, path, 8), sparsities=grid, score=score, ignore=["lm_head"])


def knees(path: Path, seed: int) -> Rows:
    """Where one-shot pruning, one budget for all layers, begins to cost more than 1 % of the bits."""
    ours, chance = _sweep(path, Magnitude()), _sweep(path, Random())
    return [
        ("essential-sparsity: zeros at 1 % more bits, magnitude over random", 100 * ours.at, 100 * chance.at),
        ("essential-sparsity: bend of the best two lines, magnitude over random", 100 * ours.bend, 100 * chance.bend),
    ]


def slopes(path: Path, seed: int) -> Rows:
    before, after = (-slope for slope in _sweep(path, Magnitude()).slopes)
    return [("essential-sparsity: slope behind the bend over 3 x the slope before it", after, 3 * before)]


def semi_structured(path: Path, seed: int) -> Rows:
    """The third sweep of the study: N:M at half of the weights, beside as many unstructured zeros."""
    found = []
    for pattern in (NM(2, 4), "unstructured"):
        model = llama(path)
        rarefy.prune(model, "magnitude", sparsity=0.5, pattern=pattern, ignore=["lm_head"])
        found.append(bits(model, path))
    return [("essential-sparsity: magnitude at 2:4 over 50 % unstructured", found[0], found[1])]


def linear_blocks(path: Path, seed: int) -> Rows:
    """What it costs to put a matrix in the place of a block."""
    model, batches = llama(path), calibration(path, seed)
    found = secretly_linear(model, batches)
    order = sorted(found, key=lambda name: found[name].whole)

    def cost(name: str, fitted: bool) -> float:
        changed = llama(path)
        replace_block(changed, name, found[name] if fitted else None, batches)
        return bits(changed, path)

    most, least = cost(order[-1], True), cost(order[0], True)
    return [
        ("secretly-linear: its most linear block as a matrix, below its least linear one", most, least),
        ("secretly-linear: its most linear block as a matrix, below that block left out", most, cost(order[-1], False)),
        ("secretly-linear: the same, beside all blocks as they are", most, bits(model, path)),
    ]


def linear_scores(path: Path, seed: int) -> Rows:
    found = secretly_linear(llama(path), calibration(path, seed)).values()
    own, whole = (sum(getattr(f, part) for f in found) / len(found) for part in ("own", "whole"))
    return [
        ("secretly-linear: score of the blocks, with the residual over without", whole, own),
        ("secretly-linear: least score of a block with the residual, over 0.99", min(f.whole for f in found), 0.99),
    ]


def one_per_cent(path: Path, seed: int) -> Rows:
    """Share of the neurons dropped at a price in perplexity, sizes with the norms of the down projection or without."""
    model, batches = llama(path), calibration(path, seed, 8)
    rows = []
    for rise in (0.01, 0.05):
        ours, plain = (
            ppl_sparsity(model, batches, next_token_loss, rise=rise, norms=norms, tokens=256, tolerance=1e-3)
            for norms in (True, False)
        )
        label = f"sparsing-law: neurons dropped at {rise:.0%} more perplexity, with the norms over without"
        rows.append((label, 100 * ours.sparsity, 100 * plain.sparsity))
    return rows


def probes(path: Path, seed: int) -> Rows:
    """F1 of one and of 16 neurons of a feed-forward layer, for digits and for capitals, on unseen tokens."""
    model = llama(path)
    cut = windows(text_of(path)[0], WINDOW, 24, seed)
    layers = {layer.name: layer.down for layer in feed_forwards(model)}
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    for inputs in layer_inputs(model, layers, batches_of(cut)):
        for name, x in inputs.items():
            parts[name].append(x.float())
    text, rows = cut.flatten(), []
    generator = torch.Generator().manual_seed(seed)
    first, middle = next(iter(layers)), list(layers)[len(layers) // 2]
    for feature, label in {
        "the byte is a capital": (text >= 65) & (text <= 90),
        "the byte before the last one was a space": torch.roll(text, 2) == 32,
    }.items():
        here, there = label.nonzero().flatten(), (~label).nonzero().flatten()
        some = torch.cat([g[torch.randperm(len(g), generator=generator)[:400]] for g in (here, there)])
        for name in (first, middle):
            x, y = torch.cat(parts[name])[some], label[some]
            one, few = sparse_probing(x, y, ks=(1, 16), ranker="mean-difference", seed=seed)
            mixed = torch.randperm(len(y), generator=generator)
            train, test = mixed[: int(0.7 * len(y))], mixed[int(0.7 * len(y)) :]
            any16 = torch.randperm(x.shape[1], generator=generator)[:16]
            calls = fit_logistic(x[train][:, any16], y[train]).calls(x[test][:, any16])
            place = f"block {list(layers).index(name)}"
            rows.append((f"sparse-probing: {feature}, {place}, 16 neurons over one", few.f1, one.f1))
            chance = quality(calls, y[test])[0]
            rows.append((f"sparse-probing: {feature}, {place}, 16 neurons over any 16", few.f1, chance))
    return rows


def halves(path: Path, seed: int) -> Rows:
    """FFSplit at 57 % of the feed-forward weights, beside low rank for all neurons, and beside any neurons as heavy."""
    batches = calibration(path, seed, 8)
    generator = torch.Generator().manual_seed(seed)

    def split(share: float, by_norm: bool) -> float:
        model = llama(path)
        layers = feed_forwards(model)
        norms = output_norms(model, layers, batches)
        for layer in layers:
            width = weight_rows(layer.down).shape[1]
            count = round(share * width)
            rank = norms[layer.name] if by_norm else torch.rand(width, generator=generator)
            kept = torch.zeros(width, dtype=torch.bool).index_fill(0, rank.topk(count).indices, True)
            FFSplit(heavy=share, weights=0.57).split(model, layer, kept, norms[layer.name])
        return bits(model, path)

    rival, rows = split(0.0, True), []
    for share in (0.05, 0.25):
        label, ours = f"ffsplit, {share:.0%} of the neurons whole, 57 % of the weights, below ", split(share, True)
        rows += [(label + "low rank for all", ours, rival), (label + "any neurons whole", ours, split(share, False))]
    return [*rows, ("ffsplit: low rank for all at 57 % of the weights, beside dense", rival, bits(llama(path), path))]


def shares(path: Path, seed: int) -> Rows:
    """How far the share of zeros is from the asked one on unseen windows, at the place where it is farthest."""
    rows, unseen = [], batches_of(text_of(path)[1][: UNSEEN * WINDOW].view(-1, WINDOW), 8)
    for sparsity in (0.5, 0.65):
        report = rarefy.sparsify_activations(
            llama(path), "chess", sparsity=sparsity, data=calibration(path, seed), held_out=unseen
        )
        for side, what in (("hidden", "neurons of a layer"), ("input", "inputs of q and o")):
            off = [abs((site.held_out or 0.0) - site.asked) for site in report.sites if site.side == side]
            rows.append((f"chess, {sparsity:.0%}: farthest share of the {what} from it, below 2", 100 * max(off), 2.0))
    return rows


CHECKS: dict[str, Check] = {
    "knees": Check(knees, "% zeros"),
    "slopes": Check(slopes, "bits a unit of sparsity"),
    "semi-structured": Check(semi_structured, "bits a byte", more=False),
    "linear-blocks": Check(linear_blocks, "bits a byte", more=False),
    "linear-scores": Check(linear_scores, "score"),
    "one-per-cent": Check(one_per_cent, "% of the neurons"),
    "probes": Check(probes, "F1"),
    "halves": Check(halves, "bits a byte", more=False),
    "shares": Check(shares, "points", more=False),
}
SEEDS = {"linear-blocks": 3, "linear-scores": 3, "probes": 3, "halves": 2, "shares": 3}
