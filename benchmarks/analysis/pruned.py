"""One-shot pruning of that Llama: all linear layers of the blocks, 24 calibration windows, 16 unseen ones. A search
looks at the loss of the calibration windows. ResNet-20 (CIFAR-10, BatchNorm statistics as given): 1,000 test images."""

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from checks import Check
from chita_models import Case, accuracy, mlpnet, resnet20
from language import bits, calibration, llama
from torch import nn

import rarefy
from rarefy.allocations.searched import Evolution, RandomSearch
from rarefy.core.site import find_sites
from rarefy.core.sparse import SparseTensor
from rarefy.formats.bitmask import Bitmask
from rarefy.formats.bitmask24 import Bitmask24
from rarefy.pruning.one_shot import OneShot
from rarefy.pruning.sparsebytenn import rearrange_channels
from rarefy.recipes.evaluations.language import next_token_loss
from rarefy.solvers.admm import ADMM

TITLE = "Pruned in one shot"
Rows = list[tuple[str, float, float]]
TRIALS = 24


@functools.cache
def pruned(
    path: Path, seed: int, method: str, sparsity: float | None, windows: int = 24, rows: int = 8, **options: Any
) -> tuple[float, float]:
    """(bits a byte, share of the squared weight that is kept) with so many calibration windows, `rows` a batch."""
    model = llama(path)
    made: Any = OneShot(ADMM()) if method == "admm" else method
    before, data = _energy(model), calibration(path, seed, windows, rows)
    options |= {"ignore": ["lm_head"], "seed": seed, "measure": False}
    rarefy.prune(model, made, sparsity=sparsity, data=data, loss=next_token_loss, **options)
    return bits(model, path), _energy(model) / before


def _energy(model: nn.Module) -> float:
    return sum(float(site.read().double().square().sum()) for site in find_sites(model, ["lm_head"])[0])


def allocations(path: Path, seed: int) -> Rows:
    """Wanda with the zeros spread by a rule, beside as many in every layer; all see 4 windows."""
    options: dict[str, Any] = {"windows": 4, "rows": 4, "pattern": "layerwise"}
    even = pruned(path, seed, "wanda", 0.7, **options)[0]
    return [
        (f"wanda by {name} over uniform, 70 %", pruned(path, seed, "wanda", 0.7, allocation=name, **options)[0], even)
        for name in ("sensitivity", "ecoflap")
    ]


def searches(path: Path, seed: int) -> Rows:
    """Magnitude with the zeros spread by a search, beside as many in every layer; 24 trials on 4 windows."""
    spreads = {"uniform": "uniform", "random-search": RandomSearch(TRIALS), "evolution": Evolution(TRIALS // 4, 4)}
    found = {name: pruned(path, seed, "magnitude", 0.7, 4, 4, allocation=spread)[0] for name, spread in spreads.items()}
    rows = [(f"magnitude by {name} over uniform, 70 %", found[name], found["uniform"]) for name in list(spreads)[1:]]
    return [*rows, ("magnitude by evolution over random-search, 70 %", found["evolution"], found["random-search"])]


def solvers(path: Path, seed: int) -> Rows:
    ours, rival = pruned(path, seed, "admm", 0.7), pruned(path, seed, "sparsegpt", 0.7, columns=64)
    return [("admm over sparsegpt, 70 %", ours[0], rival[0])]


def exact_surgeon(path: Path, seed: int) -> Rows:
    """MLPNet on MNIST, its second and third layer by their outputs on 1,000 training images (obs costs n^3 a row)."""
    case, found = mlpnet(path), {}
    data = list(case.draw(1000, seed)[0].split(100))
    for method in ("obs", "sparsegpt", "magnitude"):
        model = copy.deepcopy(case.model)
        rarefy.prune(model, method, sparsity=0.8, data=data, ignore=["fc1"])
        found[method] = accuracy(model, case.test)
    return [
        (f"obs over {rival}, fc2 and fc3 of MLPNet, 80 %", found["obs"], found[rival])
        for rival in ("sparsegpt", "magnitude")
    ]


def learned_masks(path: Path, seed: int) -> Rows:
    """MaskLLM, 60 steps of 2 windows from Wanda's masks, at its own rate and at a hundred times that."""
    rows = []
    for rate in (5e-4, 5e-2):
        ours = pruned(path, seed, "maskllm", None, rows=2, steps=60, rate=rate)[0]
        for name in ("magnitude", "wanda"):
            rows.append(
                (f"maskllm at {rate:g} over {name}, 2:4", ours, pruned(path, seed, name, None, pattern="2:4")[0])
            )
    return rows


def equal_ways(path: Path, seed: int) -> Rows:
    """Magnitude at half of the weights: free, in N:M, and in N:M with every way used equally often."""
    free, nm, grouped = (
        pruned(path, seed, "magnitude", 0.5 if p == "layerwise" else None, pattern=p)[0]
        for p in ("layerwise", "1:2", "1:2:4")
    )
    return [("sten: magnitude at 1:2:4 over 1:2", grouped, nm), ("sten: 1:2:4 over 50 % anywhere", grouped, free)]


def kept_energy(path: Path, seed: int) -> Rows:
    nm, grouped = (100 * pruned(path, seed, "magnitude", None, pattern=p)[1] for p in ("1:2", "1:2:4"))
    free = 100 * pruned(path, seed, "magnitude", 0.5, pattern="layerwise")[1]
    return [
        ("sten: squared weight that 1:2 keeps over 1:2:4", nm, grouped),
        ("sten: squared weight that 50 % anywhere keeps over 1:2", free, nm),
    ]


def mask_bytes(path: Path, seed: int) -> Rows:
    """All linear layers of the blocks at 2:4, parts of the format by the bytes of the dense matrices."""
    model = llama(path)
    rarefy.prune(model, "magnitude", pattern="2:4", ignore=["lm_head"])
    rows = []
    for type_ in (torch.float32, torch.bfloat16):
        dense, found = 0, {Bitmask24: 0, Bitmask: 0}
        for site in find_sites(model, ["lm_head"])[0]:
            weight = site.read().to(type_)
            dense += weight.nbytes
            for format_ in found:
                found[format_] += sum(p.nbytes for p in format_().pack(SparseTensor.from_dense(weight)).values())
        ours, rival = (100 * found[f] / dense for f in (Bitmask24, Bitmask))
        rows.append((f"sparse-24-bitmask below sparse-bitmask, 2:4, {str(type_).split('.')[1]}", ours, rival))
    return rows


@functools.cache
def _resnet(path: Path) -> Case:
    return resnet20(path)


def right(case: Case, model: nn.Module) -> float:
    return accuracy(model.eval(), (case.test[0][:1000], case.test[1][:1000]))


def blocks(path: Path, seed: int) -> Rows:
    """ResNet-20 in blocks of four output channels, before and after its channels were put into another order."""
    case, rows = _resnet(path), []
    ignore = [*case.ignore, "fc"]  # ten classes are no multiple of four
    for sparsity in (0.3, 0.5):
        found = []
        for ordered in (True, False):
            model = copy.deepcopy(case.model)
            if ordered:
                gain = rearrange_channels(model, case.test[0][:1], sparsity=sparsity)
                off = float((model(case.test[0][:50]) - case.model(case.test[0][:50])).abs().max())
                assert gain >= 1.0 and off < 1e-3, (gain, off)
            rarefy.prune(model, "sparsebytenn", sparsity=sparsity, ignore=ignore)
            found.append(right(case, model))
        scattered = copy.deepcopy(case.model)
        rarefy.prune(scattered, "magnitude", sparsity=sparsity, ignore=ignore)
        rows.append((f"sparsebytenn, channels in order over as they were, {sparsity:.0%}", found[0], found[1]))
        label = f"sparsebytenn, channels in order over scattered zeros, {sparsity:.0%}"
        rows.append((label, found[0], right(case, scattered)))
    return rows


def short_groups(path: Path, seed: int) -> Rows:
    """ResNet-20, whose first layer has 27 inputs: padded N:M in all layers, N:M with that layer left dense."""
    case, found = _resnet(path), []
    for undivided in ("pad", "skip"):
        model = copy.deepcopy(case.model)
        rarefy.prune(model, "magnitude", pattern="2:4", undivided=undivided, ignore=list(case.ignore))
        found.append(right(case, model))
    free = copy.deepcopy(case.model)
    rarefy.prune(free, "magnitude", sparsity=0.5, ignore=list(case.ignore))
    return [
        ("padded-nm, 2:4 in all layers over the first one left dense", found[0], found[1]),
        ("padded-nm, 2:4 in all layers over 50 % anywhere in each", found[0], right(case, free)),
    ]


CHECKS: dict[str, Check] = {
    "allocations": Check(allocations, "bits a byte", more=False),
    "searches": Check(searches, "bits a byte", more=False),
    "solvers": Check(solvers, "bits a byte", more=False),
    "exact-surgeon": Check(exact_surgeon, "% right"),
    "learned-masks": Check(learned_masks, "bits a byte", more=False),
    "equal-ways": Check(equal_ways, "bits a byte", more=False),
    "kept-energy": Check(kept_energy, "% of the squared weight"),
    "mask-bytes": Check(mask_bytes, "% of the dense bytes", more=False),
    "blocks": Check(blocks, "% right"),
    "short-groups": Check(short_groups, "% right"),
}
SEEDS: dict[str, int] = {}
