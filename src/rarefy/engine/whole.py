"""Which variant of a whole model is fastest: timed, or as it was timed before on this machine."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import nn

from rarefy.engine.cache import Record, TimingCache
from rarefy.engine.cell import bucket
from rarefy.engine.explain import LayerRow
from rarefy.engine.timing import Rounds

_LIKELY = ("graph", "layers", "source")  # the order of speed where nothing is timed


def model_key(model: nn.Module, rows: Sequence[LayerRow]) -> str:
    """Equal for models of one structure whose layers run with the same kernels at about the same densities."""
    structure = [(name, type(module).__qualname__) for name, module in model.named_modules()]
    sizes = [(name, tuple(p.shape), str(p.dtype)) for name, p in model.named_parameters()]
    layers = [(r.name, r.tokens, r.kernel, bucket(round(1e6 * (1.0 - r.sparsity)), 10**6)) for r in rows]
    text = repr((structure, sizes, layers))
    return f"model {hashlib.sha256(text.encode()).hexdigest()[:24]}"


def choose(names: Collection[str], key: str | None, measure: Callable[..., Rounds]) -> tuple[str, dict[str, Any]]:
    """(the fastest variant, what is known of its time and of the source's).

    key: of the model and its inputs in the cache; None takes the likely fastest without timing.
    """
    if key is None:
        best = next((name for name in _LIKELY if name in names), "source")
        return best, {"source_ms": None, "compiled_ms": None, "speedup": None, "origin": "not timed"}
    cache, tried = TimingCache(), frozenset(names)
    known = cache.get(key)
    if known is not None and known.tried == tried == frozenset(known.ms):
        ms, origin = dict(known.ms), "cache"
    else:
        rounds, origin = measure(rounds=9, warmup=2, seconds=4.0), "measured"
        source = rounds.median("source")  # the others by their ratio to it, round by round
        ms = {name: source / rounds.ratio(name, "source") for name in names}
        cache.put(key, Record(ms, None, tried))
    best = min(ms, key=lambda name: (ms[name], name != "source"))
    speedup = ms["source"] / ms[best]
    return best, {"source_ms": ms["source"], "compiled_ms": ms[best], "speedup": speedup, "origin": origin}
