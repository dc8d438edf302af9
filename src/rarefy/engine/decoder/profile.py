"""Where the time of one token goes."""

import time
from collections.abc import Sequence

import torch

from rarefy.engine.ceiling import ceiling
from rarefy.engine.decoder.choose import Chosen
from rarefy.engine.decoder.generate import positions_of
from rarefy.engine.decoder.runner import Runner
from rarefy.engine.demand import Demand, Step
from rarefy.engine.profile_report import Profile, profile_of
from rarefy.ops import PackedWeight
from rarefy.ops.decoder import NativeDecoder

_SELDOM = ("turn", "foresight")  # parts that most models have not


def profile_of_a_token(runner: Runner, past: int, steps: int) -> Profile:
    """The median step of one token behind `past` tokens, by parts, with what each moves and computes."""
    found = parts_of_a_token(runner, past, steps)
    needs = _demands(runner, past)
    shown = {name: ms for name, ms in found.items() if name != "whole" and (ms or name not in _SELDOM)}
    timed = [Step(name, name, ms, needs.get(name, Demand())) for name, ms in shown.items()]
    known = timed or [Step("a token", "layers", found["whole"])]
    return profile_of(known, found["whole"], "the decoder runtime", torch.get_num_threads(), ceiling())


def _demands(runner: Runner, past: int) -> dict[str, Demand]:
    """Of the parts that multiply packed weights, and of attention over the cache; all layers together."""
    plan, sizes = runner.plan, runner.structure.sizes
    parts: dict[str, Sequence[Chosen | None]] = {
        "qkv": [chosen for layer in plan.layers for chosen in layer.qkv],
        "out": [layer.out for layer in plan.layers],
        "up": [chosen for layer in plan.layers for chosen in layer.up],
        "down": [layer.down for layer in plan.layers],
        "head": [plan.head],
        "turn": [*(turn for layer in plan.layers for turn in (layer.turn, layer.mlp_turn)), plan.turn],
        "foresight": [
            one
            for layer in plan.layers
            for by in (*layer.attention_foresights, *layer.mlp_foresights)
            for one in by.net
        ],
    }
    found = {name: _weights(_packed(chosen)) for name, chosen in parts.items()}
    keys = float(len(plan.layers) * (past + 1) * sizes.depth)
    found["attention"] = Demand(flops=4.0 * keys * sizes.heads, nbytes=8.0 * keys * sizes.kv_heads)
    return found


def _packed(chosen: Sequence[Chosen | None]) -> list[PackedWeight | None]:
    """What single tokens are multiplied with, and what passes by a selection."""
    there = [one for one in chosen if one is not None]
    return [part.at(1) for one in there for part in (one, *(one.rest or ()))]


def _weights(packed: Sequence[PackedWeight | None]) -> Demand:
    known = [weight for weight in packed if weight is not None]
    names = ", ".join(dict.fromkeys(weight.kernel for weight in known))
    moved = sum(weight.nbytes + 4.0 * sum(weight.shape) for weight in known)
    return Demand(names, 2.0 * sum(weight.nnz for weight in known), moved)


def parts_of_a_token(runner: Runner, past: int, steps: int) -> dict[str, float]:
    """Milliseconds a part of the median step, "whole": of the call. Only "whole" where the step is not native."""
    past = max(0, min(past, runner.structure.most_positions - 1))
    cache = runner.cache(1, past + 1)
    ids = torch.zeros(1, max(1, past), dtype=torch.int64)
    if past:
        runner.run(ids, positions_of(None, 1, past), cache, last_only=True)
    one, position = torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), past)
    names = NativeDecoder.parts()
    rows: list[list[float]] = []
    spent = torch.zeros(max(1, len(names)), dtype=torch.int64)
    _, advance = runner.stepper(one, position, cache, spent)
    for _ in range(steps + 2):
        spent.zero_()
        begin = time.perf_counter()
        advance()
        whole = (time.perf_counter() - begin) * 1e3
        cache.crop(past)
        rows.append([*(spent.double() / 1e6).tolist()[: len(names)], whole])
    typical = sorted(rows[2:], key=lambda row: row[-1])[steps // 2]
    found = dict(zip([*names, "whole"], typical, strict=True))
    return found if any(found[name] for name in names) else {"whole": found["whole"]}
