"""Decoding with selected inputs and neurons: the model of decode.py, d 2048, ff 5632, 6 layers, vocabulary 8192.

Every side is compiled of the same random weights and beside it the same types without selection. Thresholds are those
that keep the asked share of every projection's inputs on a random text (as TEAL sets them, one a layer's input).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from harness import HERE, READ, Sides, Target, Timed, Turn, options, reading, report, show, table, timed
from torch import Tensor, nn

import rarefy
from rarefy.selectors import Threshold, detach, feed_forwards, projections, select_hidden, select_inputs
from rarefy.selectors.foreseen import Foreseen
from rarefy.selectors.likeliest import Likeliest
from rarefy.selectors.predictor import Predictor

import sys  # isort: skip

sys.path.insert(0, str(HERE.parent / "decode"))
from model import llama

PROMPT, NEW = 64, 16
TYPES: dict[str, dict[str, str]] = {
    "fp32": {},
    "bf16": {"weights": "bf16"},
    "int8": {"weights": "int8", "activations": "int8"},
    "int4": {"weights": "int4", "activations": "int8"},
}
WANTED = {50: 1.6, 65: 2.1}  # sparsity in per cent: times the dense decode of the same type
Prepare = Callable[[nn.Module], None]


def model_of(sparsity: float = 0.0, **changes: Any) -> nn.Module:
    """The model, whose embedding is large: a block then changes the residual by a little, as in trained models. Else an
    input that rounding puts on the other side of a threshold would change all that follows, block by block more."""
    model = llama(sparsity, **changes)
    model.get_input_embeddings().weight.data *= 100
    return model


def text(rows: int = 1, seed: int = 0) -> Tensor:
    return torch.randint(0, 8192, (rows, PROMPT), generator=torch.Generator().manual_seed(seed))


def quantiles(model: nn.Module, places: dict[str, nn.Module], share: float, outputs: bool = False) -> dict[str, Tensor]:
    """The size that `share` of a place's inputs (or outputs) do not exceed on a text, by name."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def see(module: nn.Module, args: tuple[Tensor, ...], *output: Tensor) -> None:
            found[name] = (output[0] if outputs else args[0]).abs().flatten().float().quantile(share)

        return see

    hooks = [
        m.register_forward_hook(note(n)) if outputs else m.register_forward_pre_hook(note(n)) for n, m in places.items()
    ]
    with torch.inference_mode():
        model(text()[:, :32])
    for hook in hooks:
        hook.remove()
    return found


def inputs(share: float, parts: Sequence[str] = ("q", "k", "v", "o", "gate", "up", "down")) -> Prepare:
    """Selects inputs of projections so that `share` of them is left out."""

    def prepare(model: nn.Module) -> None:
        places = {p.name: p.module for p in projections(model) if p.part in parts}
        at = quantiles(model, places, share)
        for name, module in places.items():
            select_inputs(module, Threshold(at[name].clone()))

    return prepare


def neurons(share: float, parts: Sequence[str] = ()) -> Prepare:
    """Leaves out a share of the neurons behind the activation, and half of the inputs of some projections."""

    def prepare(model: nn.Module) -> None:
        places = {layer.name: layer.activation for layer in feed_forwards(model)}
        at = quantiles(model, places, share, outputs=True)
        if parts:
            inputs(0.5, parts)(model)
        for name, activation in places.items():
            select_hidden(activation, Threshold(at[name].clone()))

    return prepare


def foreseen(share: float, fire: float = 0.5) -> Prepare:
    """Predictors of rank 64 choose neurons of a ReLU model so that `share` is 0 in the end: of those chosen, `fire` is
    not. Their weights are random: they cost what trained ones cost."""

    def prepare(model: nn.Module) -> None:
        torch.manual_seed(0)
        for layer in feed_forwards(model):
            neurons, width = layer.up.weight.shape
            net = Predictor(width, neurons, 64).requires_grad_(False)
            chosen = Foreseen(Likeliest(net, round(neurons * (1 - share) / fire)), neurons)
            chosen.watch(layer.gate)
            select_hidden(layer.activation, chosen)

    return prepare


def tokens(fast: Any, rows: int = 1) -> Turn:
    """Seconds of each token of one generation."""

    def turn(seconds: float, most: int) -> list[float]:
        fast.generate(text(rows), max_new_tokens=NEW, do_sample=False, eos_token_id=-1)
        return list(fast.last.tokens)

    return turn


def read(fast: Any, used: dict[str, float]) -> float:
    """Gigabytes that a token reads: of skipping kernels the share that the example used, and the cache half-way."""
    found = {}
    for chosen in fast._runner.plan.all():
        packed = chosen.at(1)
        skips = packed.kernel.startswith(("columns", "neurons"))
        found[id(chosen)] = packed.nbytes * (used.get(chosen.merged.name, 1.0) if skips else 1.0)
    return (sum(found.values()) + fast.cache(1, PROMPT + NEW // 2).nbytes) / 1e9


def shares(fast: Any) -> dict[str, float]:
    """Share of inputs or rows that a layer used on one token of the example, by its name, as explain() says."""
    rows = [row for row in fast.explain().rows if row.tokens == 1 and "% of the" in row.reason]
    return {row.name.split(" and ")[0]: float(row.reason.split("%")[0]) / 100 for row in rows}


def compiled(
    model: nn.Module, prepare: Prepare | None, types: dict[str, str], sizes: dict[str, float], name: str
) -> Any:
    if prepare is not None:
        prepare(model)
    # Sides without selection are timed; the others take their kernels from those times. To time every candidate of
    # every side would take an hour, and whether to skip is nowhere in doubt here.
    fast = rarefy.compile(model, {"input_ids": text()}, measure=prepare is None, **types)
    used = shares(fast)
    sizes[name] = read(fast, used)
    show(
        {
            name: {
                f"{row.name} at {row.tokens}": row.kernel
                for row in fast.explain().rows
                if ".0." in row.name and "% of the" in row.reason
            }
        }
    )
    detach(model)
    return fast


def compare(sides: dict[str, Any], rounds: int, rows: int = 1) -> Timed:
    every = Sides({name: tokens(fast, rows) for name, fast in sides.items()} | {READ: reading()})
    return timed(every, rounds, 0.3, NEW)


def main() -> None:
    asked = options(__doc__)
    rounds, sizes = 3 if asked.quick else 5, dict[str, float]()
    results: dict[str, Timed] = {}
    targets: list[Target] = []
    for kind, types in TYPES.items():
        model = model_of()
        dense = f"{kind} dense"
        sides = {dense: compiled(model, None, types, sizes, dense)}
        for percent in WANTED:
            name = f"{kind} {percent} % of inputs out"
            sides[name] = compiled(model, inputs(percent / 100), types, sizes, name)
        results[kind] = one = compare(sides, rounds)
        targets += [
            Target(
                f"{kind}, {percent} % of inputs out: times dense",
                wanted,
                one.ratio(f"{kind} {percent} % of inputs out", dense),
            )
            for percent, wanted in WANTED.items()
        ]
        if kind in ("fp32", "int8"):
            name = f"{kind} 50 % of inputs out"
            results[f"{kind}, batch 8"] = many = compare({n: sides[n] for n in (dense, name)}, rounds, 8)
            targets.append(Target(f"{kind}, 50 % of inputs out, batch 8: times dense", 1.0, many.ratio(name, dense)))
            results[f"{kind}, ReLU"] = relu(kind, types, sizes, rounds, targets)
            results[f"{kind}, pruned"] = pruned(kind, types, sizes, rounds)
    rows = []
    for label, one in results.items():
        first = next(iter(one.rounds))
        for name in one.without_reading().rounds:
            rate = None if "batch" in label else sizes[name] / one.ms(name) * 1e3
            share = None if "batch" in label else one.share(name, sizes[name])
            rows.append(
                [
                    label,
                    name,
                    sizes[name] * 1e3,
                    one.ms(name),
                    one.ratio(name, first),
                    rate or "-",
                    share or "-",
                ]
            )
            if label in TYPES and "dense" not in name:
                targets.append(Target(f"{name}: bytes over time, share of read bandwidth", 0.75, share))
    head = ["", "side", "MB a token", "ms a token", "times the first", "GB/s", "share of read bandwidth"]
    charts = {label: one.without_reading() for label, one in results.items() if label in TYPES}
    memory = ", ".join(f"{label} {one.bandwidth():.1f}" for label, one in results.items())
    body = f"Memory gave, in the same rounds, GB/s: {memory}.\n\n{table(head, rows)}"
    report("decode_selected", "Decoding with selected inputs", body, targets, {}, asked, charts)


def relu(kind: str, types: dict[str, str], sizes: dict[str, float], rounds: int, targets: list[Target]) -> Timed:
    """A ReLU model nine tenths of whose neurons are 0: those alone left out, half of the other inputs too, and neurons
    that predictors leave out before the gate is read."""
    model = model_of(hidden_act="relu")
    dense, zeros, both = f"{kind} ReLU dense", f"{kind} ReLU 90 %", f"{kind} ReLU 90 % and half of the inputs"
    ahead = f"{kind} ReLU 90 %, foreseen"
    sides = {
        dense: compiled(model, None, types, sizes, dense),
        zeros: compiled(model, neurons(0.9), types, sizes, zeros),
        both: compiled(model, neurons(0.9, ("q", "k", "v", "o", "gate")), types, sizes, both),
        ahead: compiled(model, foreseen(0.9), types, sizes, ahead),
    }
    one = compare(sides, rounds)
    targets += [
        Target(f"{kind}, ReLU at 90 %: times dense", 2.0, one.ratio(zeros, dense)),
        Target(f"{kind}, ReLU at 90 % and half of the inputs: times dense", 2.0, one.ratio(both, dense)),
        Target(f"{kind}, ReLU at 90 %, foreseen: times dense", 2.0, one.ratio(ahead, dense)),
    ]
    return one


def pruned(kind: str, types: dict[str, str], sizes: dict[str, float], rounds: int) -> Timed:
    """Half of the weights are zero: kernels that skip those alone, and those that skip unused inputs too."""
    model = model_of(0.5)
    alone, both = f"{kind} 50 % of weights out", f"{kind} 50 % of weights and inputs out"
    sides = {
        alone: compiled(model, None, types, sizes, alone),
        both: compiled(model, inputs(0.5), types, sizes, both),
    }
    return compare(sides, rounds)


if __name__ == "__main__":
    main()
