"""Where the time of one token goes."""

import time

import torch

from rarefy.engine.decoder.generate import positions_of
from rarefy.engine.decoder.runner import Runner
from rarefy.ops.decoder import NativeDecoder


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
