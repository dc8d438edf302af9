"""Decoding with selected inputs, corrected by rare dense passes (Sirius), on the model of decode_selected.py.

Its weights are random, so no share of accepted drafts means anything here: every draft is made to stand (least=1e-30),
which is the most that correction can give at a period. What a round costs is then set against the dense decode: the
fewest tokens that a round has to keep so that it is not slower. How many it keeps depends on model and task:
benchmarks/activations/arithmetic.py has a trained one. Kernels are timed while compiling, those of a check too.
"""

import time
from collections.abc import Callable
from typing import Any

from decode_selected import PROMPT, TYPES, inputs, model_of, text, tokens
from harness import Sides, Target, Timed, Turn, options, report, show, table, timed

import rarefy
from rarefy.activations.sirius import Sirius
from rarefy.selectors import detach

PERIODS = (8, 16)
SPARSITIES = {"fp32": (50,), "int8": (50, 65)}
NEW = 34  # a little more than two rounds of the longest period


def compiled(model: Any, kind: str, percent: int = 0) -> Any:
    """With so many per cent of the inputs left out."""
    if percent:
        inputs(percent / 100)(model)
    fast = rarefy.compile(
        model, [{"input_ids": text()[:, :n]} for n in (PROMPT, *(p + 1 for p in PERIODS))], **TYPES[kind]
    )
    detach(model)
    show(f"{kind}, {percent} %: compiled")
    return fast


def corrected(fast: Any, period: int) -> Turn:
    """Seconds a token of whole rounds, the prompt taken off."""
    rules, prompt = Sirius(period, least=1e-30), text()
    rounds = -(-NEW // (period + 1))
    count = 1 + rounds * (period + 1)  # the first token comes with the prompt

    def turn(seconds: float, most: int) -> list[float]:
        reading = spent(lambda: fast.drafting.begin(prompt, count + 1))
        made: list[Any] = []
        whole = spent(lambda: made.append(rules.generate(fast, prompt, count)))
        assert made[0].rollbacks == 0 and made[0].checks == rounds
        return [(whole - reading) / (count - 1)]

    return turn


def spent(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def check(fast: Any, period: int) -> Turn:
    """Seconds of one dense pass over a round's drafts and the token before them."""
    prompt = text()

    def turn(seconds: float, most: int) -> list[float]:
        _, cache = fast.drafting.begin(prompt, period + 1)
        found = []
        for _ in range(3):
            found.append(spent(lambda: fast.drafting.check(prompt[:, : period + 1], cache)))
            cache.crop(PROMPT)
        return found

    return turn


def main() -> None:
    asked = options(__doc__)
    results: dict[str, Timed] = {}
    rows: list[list[Any]] = []
    targets: list[Target] = []
    for kind, every in SPARSITIES.items():
        model = model_of()
        turns = {"dense": tokens(compiled(model, kind))}
        for percent in every:
            fast = compiled(model, kind, percent)
            turns[f"{percent} % alone"] = tokens(fast)
            turns |= {f"{percent} %, corrected every {p}": corrected(fast, p) for p in PERIODS}
        turns |= {f"a check of {p + 1}": check(fast, p) for p in PERIODS}
        results[kind] = one = timed(Sides(turns), 3 if asked.quick else 5, 0.3, 16)
        for name in one.rounds:
            fewest: float | str = "-"
            if "corrected" in name:
                period = int(name.split()[-1])
                fewest = (period + 1) / one.ratio(name, "dense")
                said = f"{kind}, {name}, all drafts stand: times dense"
                targets.append(Target(said, 1.2, one.ratio(name, "dense")))
            rows.append([kind, name, one.ms(name), one.ratio(name, "dense"), fewest])
    head = ["", "side", "ms a token (of a check: ms)", "times dense", "tokens a round to be as fast as dense"]
    body = table(head, rows)
    report("decode_corrected", "Decoding corrected by rare dense passes", body, targets, {}, asked, results)


if __name__ == "__main__":
    main()
