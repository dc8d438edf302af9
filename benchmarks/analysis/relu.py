"""A Llama of ReLUs (4 blocks, width 128, 384 neurons), trained for 250 steps on tinyshakespeare as in
benchmarks/activations/trained.py; 24 windows of 128 bytes to calibrate on, 24 unseen ones."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from checks import Check
from torch import Tensor, nn
from trained import Loop, Text, fresh, read

from rarefy.activations.deja_vu import DejaVu
from rarefy.activations.fatrelu import FATReLU
from rarefy.activations.hidden import activation_of
from rarefy.activations.polar_sparsity import PolarSparsity, union_of
from rarefy.activations.relufication import Relufication
from rarefy.activations.sirius import Sirius
from rarefy.analysis.ffn_neuron_census import CensusRules, ffn_neuron_census, remove_dead
from rarefy.calibration.layer_inputs import layer_inputs
from rarefy.recipes.evaluations.language import Perplexity, batches_of, windows
from rarefy.selectors import TopK, feed_forwards, select_hidden

TITLE = "A trained Llama of ReLUs"
Rows = list[tuple[str, float, float]]
STEPS = 250


@functools.cache
def _text(data: Path) -> Text:
    return read(data)


@functools.cache
def _trained(data: Path) -> nn.Module:
    model = fresh(0)
    Relufication().apply(model)
    Loop(model, _text(data), STEPS).run(STEPS)
    return model.eval()


def llama(data: Path) -> nn.Module:
    return copy.deepcopy(_trained(data))


def bits(model: nn.Module, data: Path) -> float:
    return Perplexity(_text(data).unseen[:24])(model)["bits_per_byte"]


def calibration(data: Path, seed: int, count: int = 24) -> list[dict[str, Tensor]]:
    return batches_of(windows(_text(data).seen, 128, count, seed))


def held_out(data: Path) -> list[dict[str, Tensor]]:
    return batches_of(_text(data).unseen[24:40])


def density(model: nn.Module, data: Path) -> float:
    """Share of the neurons that the down projections read as not zero, in per cent."""
    downs = {layer.name: layer.down for layer in feed_forwards(model)}
    parts = [x for inputs in layer_inputs(model, downs, held_out(data)) for x in inputs.values()]
    return 100 * sum(float((x != 0).float().mean()) for x in parts) / len(parts)


def changed(data: Path, change: Callable[[nn.Module], Any]) -> tuple[float, float]:
    """(bits a byte, per cent of the neurons)."""
    model = llama(data)
    change(model)
    return bits(model, data), density(model, data)


def largest(share: float) -> Callable[[nn.Module], None]:
    """The same share of the neurons of every layer, the largest of each token: as many as the threshold leaves."""

    def change(model: nn.Module) -> None:
        for layer in feed_forwards(model):
            select_hidden(activation_of(layer), TopK(max(1, round(share * layer.down.weight.shape[1]))))

    return change


@functools.cache
def _raised(path: Path) -> list[tuple[float, tuple[float, float], tuple[float, float]]]:
    plain, found = changed(path, lambda model: None), []
    for threshold in (0.1, 0.3):
        ours = changed(path, FATReLU(threshold).apply)
        found.append((threshold, ours, changed(path, largest(ours[1] / 100))))
    return [(0.0, plain, plain), *found]


def raised(path: Path, seed: int) -> Rows:
    (_, plain, _), *found = _raised(path)
    rows = []
    for threshold, ours, rival in found:
        rows.append((f"fatrelu: threshold {threshold} over plain ReLU", ours[0], plain[0]))
        rows.append((f"fatrelu: threshold {threshold} over as many, the largest of each token", ours[0], rival[0]))
    return rows


def raised_share(path: Path, seed: int) -> Rows:
    (_, plain, _), *found = _raised(path)
    return [(f"fatrelu: neurons left at threshold {threshold}, below plain ReLU", ours[1], plain[1])
            for threshold, ours, _ in found]  # fmt: skip


def _foresight(path: Path, seed: int, **options: Any) -> tuple[nn.Module, Any]:
    model = llama(path)
    return model, DejaVu(**options, seed=seed, steps=200).apply(model, calibration(path, seed), held_out(path))


def foreseen(path: Path, seed: int) -> Rows:
    """Recall of the neurons that fire and of the longest heads, on text that the predictors have not seen."""
    rows, found = [], {}
    for lookahead in (False, True):
        _, found[lookahead] = _foresight(path, seed, sparsity=0.75, heads=0.5, lookahead=lookahead)
    for kind, share in (("neurons", "75 %"), ("heads", "half")):
        made = [layer for layer in found[False].layers if layer.kind == kind]
        static = 100 * sum(layer.static for layer in made) / len(made)
        recall = 100 * found[False].recall(kind)
        rows.append((f"deja-vu: {kind} foreseen, {share} left out, over the most frequent ones", recall, static))
    ahead = 100 * found[True].recall("neurons")
    label = "deja-vu: neurons foreseen one layer ahead, plus 3 points, over at once"
    return [*rows, (label, ahead + 3, 100 * found[False].recall("neurons"))]


def foreseen_bits(path: Path, seed: int) -> Rows:
    """What leaving out three quarters of the neurons costs, beside as many chosen once, and as many without a net."""
    model, _ = _foresight(path, seed, sparsity=0.75)
    ours = bits(model, path)

    def often(model: nn.Module) -> None:
        downs = {layer.name: layer.down for layer in feed_forwards(model)}
        counts: dict[str, Any] = dict.fromkeys(downs, 0)
        for inputs in layer_inputs(model, downs, calibration(path, seed)):
            for name, x in inputs.items():
                counts[name] = counts[name] + (x != 0).sum(0)
        with torch.no_grad():
            for name, down in downs.items():
                down.weight[:, counts[name].argsort()[: round(0.75 * len(counts[name]))]] = 0.0

    return [
        ("deja-vu: 75 % of the neurons left out below the rarest 75 % always left out", ours, changed(path, often)[0]),
        ("deja-vu: 75 % of the neurons left out beside the model as it is", ours, bits(llama(path), path)),
    ]


def polar(path: Path, seed: int) -> Rows:
    """How the union of the neurons grows with the batch, where the heads' share stays."""
    model = llama(path)
    made = PolarSparsity(heads=0.5, steps=200, seed=seed).apply(model, calibration(path, seed), held_out(path))
    neurons = [layer for layer in made.layers if layer.kind == "neurons"]
    ups = {layer.name: layer.up for layer in feed_forwards(model)}
    made.remove()
    inputs: dict[str, list[Tensor]] = {name: [] for name in ups}
    for part in layer_inputs(model, ups, held_out(path)):
        for name, x in part.items():
            inputs[name].append(x.float())
    share = {
        size: 100 * sum(union_of(layer, torch.cat(inputs[layer.name]), size) for layer in neurons) / len(neurons)
        for size in (1, 64)
    }
    heads = [layer for layer in made.layers if layer.kind == "heads"]
    static = 100 * sum(layer.static for layer in heads) / len(heads)
    label = "polar-sparsity: recall of the longest half of the heads, routed over the most frequent ones"
    return [
        ("polar-sparsity: union of the neurons, 64 sequences over one", share[64], share[1]),
        (label, 100 * made.recall("heads"), static),
    ]


def polar_bits(path: Path, seed: int) -> Rows:
    """Half of the heads left out: routed, and by routers of one step, which begin at the frequencies."""
    found = []
    for steps in (200, 1):
        model = llama(path)
        rules = PolarSparsity(heads=0.5, neurons=False, steps=steps, seed=seed)
        rules.apply(model, calibration(path, seed), held_out(path))
        found.append(bits(model, path))
    return [
        ("polar-sparsity: half of the heads of each sequence, below the most frequent half", found[0], found[1]),
        ("polar-sparsity: half of the heads of each sequence, beside all", found[0], bits(llama(path), path)),
    ]


@functools.cache
def _corrected(path: Path) -> dict[str, float]:
    """Share of 96 new bytes that are the dense model's, over four prompts, and Sirius' counts."""
    model = llama(path)
    prompts = [row[None, :32] for row in _text(path).unseen[40:44]]
    options: dict[str, Any] = {"max_new_tokens": 96, "do_sample": False, "pad_token_id": 0}
    wanted = [model.generate(p, **options) for p in prompts]
    DejaVu(sparsity=0.85, heads=0.5, steps=200).apply(model, calibration(path, 0), held_out(path))
    drafts = [model.generate(p, **options) for p in prompts]

    def alike(made: list[Tensor]) -> float:
        return 100 * sum(float((a[0, 32:] == b[0, 32:]).float().mean()) for a, b in zip(made, wanted, strict=True)) / 4

    found = {"sparse": alike(drafts), "sparse bits": bits(model, path)}
    for name, rules in {"exact": Sirius(8, exact=True), "kept": Sirius(8, least=0.1)}.items():
        made = [rules.generate(model, p, 96) for p in prompts]
        found[name] = alike([m.tokens for m in made])
        found[f"{name} advance"] = sum(m.advance for m in made) / len(made)
        found[f"{name} loss"] = _loss(path, [m.tokens for m in made])
    return found | {"dense loss": _loss(path, wanted), "sparse loss": _loss(path, drafts)}


def _loss(path: Path, made: list[Tensor]) -> float:
    """Bits a byte that the dense model gives to the new bytes."""
    return sum(Perplexity(tokens)(llama(path))["bits_per_byte"] for tokens in made) / len(made)


def corrected(path: Path, seed: int) -> Rows:
    found = _corrected(path)
    return [
        ("sirius, exact: bytes of dense greedy text, over sparse alone", found["exact"], found["sparse"]),
        ("sirius, least 0.1: bytes of dense greedy text, over sparse alone", found["kept"], found["sparse"]),
    ]


def corrected_loss(path: Path, seed: int) -> Rows:
    found = _corrected(path)
    label = "sirius, least 0.1: what the dense model says of the text, "
    return [
        (label + "below sparse alone", found["kept loss"], found["sparse loss"]),
        (label + "beside its own", found["kept loss"], found["dense loss"]),
    ]


def advances(path: Path, seed: int) -> Rows:
    found = _corrected(path)
    return [(f"sirius, {label}: bytes a dense pass, over 1", found[f"{name} advance"], 1.0)
            for name, label in (("exact", "exact"), ("kept", "least 0.1"))]  # fmt: skip


def census(path: Path, seed: int) -> Rows:
    """Over 64 windows; on the text of the census nothing changes when the dead ones are cut out."""
    model, batches = llama(path), calibration(path, seed, 64)
    found = ffn_neuron_census(model, batches, rules=CensusRules())
    first, *_, last = found.values()
    with torch.no_grad():
        before = model(**batches[0]).logits
        remove_dead(model, found)
        off = float((model(**batches[0]).logits - before).abs().max())
    assert off < 1e-4, off
    total = sum(f.neurons for f in found.values())
    dead = [100 * len(layer.dead) / layer.neurons for layer in (first, last)]
    kinds = [100 * sum(len(getattr(f, kind)) for f in found.values()) / total for kind in ("detectors", "positional")]
    return [
        ("ffn-neuron-census: dead neurons, first layer over last", dead[0], dead[1]),
        ("ffn-neuron-census: detectors of n-grams over neurons that follow the position", kinds[0], kinds[1]),
    ]


CHECKS: dict[str, Check] = {
    "raised": Check(raised, "bits a byte", more=False),
    "raised-share": Check(raised_share, "% of the neurons", more=False),
    "foreseen": Check(foreseen, "% recall"),
    "foreseen-bits": Check(foreseen_bits, "bits a byte", more=False),
    "polar": Check(polar, "%"),
    "polar-bits": Check(polar_bits, "bits a byte", more=False),
    "corrected": Check(corrected, "% of the bytes"),
    "corrected-loss": Check(corrected_loss, "bits a byte", more=False),
    "advances": Check(advances, "bytes"),
    "census": Check(census, "% of the neurons"),
}
SEEDS = {"foreseen": 2}
