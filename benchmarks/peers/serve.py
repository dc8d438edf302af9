"""A peer's side of the protocol: one warm model in a process of its own, timed when it is asked.

One line in, one line of JSON out. Plain Python and NumPy: this file runs in the peer's environment, not in ours.

    (start)               {"ready": {...facts}}          or {"failed": "why"}, after which the process ends
    turn SECONDS CALLS    {"seconds": [...]}             calls until SECONDS are full or CALLS made, after one more
    output FILE           {"file": FILE}                 the result of one call, as .npy
    quit                  (end)
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO


def serve(prepare: Callable[[], tuple[Callable[[], Any], dict[str, Any]]]) -> None:
    """Answers requests until `quit` or the end of the input. prepare: gives (one timed call, facts worth reporting)."""
    answers = _own_stdout()
    try:
        call, facts = prepare()
        call()
    except Exception as error:  # the harness says it in the table
        _answer(answers, {"failed": f"{type(error).__name__}: {error}"})
        return
    _answer(answers, {"ready": facts})
    for line in sys.stdin:
        word, *rest = line.split(maxsplit=2)
        if word == "quit":
            return
        if word == "turn":
            _answer(answers, {"seconds": turn(call, float(rest[0]), int(rest[1]))})
        elif word == "output":
            _answer(answers, {"file": _write(call(), rest[0])})
        else:
            _answer(answers, {"failed": f"no request is called {word!r}; there are turn, output and quit"})


def turn(call: Callable[[], Any], seconds: float, most: int) -> list[float]:
    """Seconds of each call that fits; one call before them counts for nothing."""
    call()
    taken: list[float] = []
    while not taken or (sum(taken) < seconds and len(taken) < most):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return taken


def _own_stdout() -> TextIO:
    """The pipe to the harness; whatever a library prints goes to the error stream instead."""
    kept = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return kept


def _answer(stream: TextIO, what: dict[str, Any]) -> None:
    stream.write(json.dumps(what) + "\n")
    stream.flush()


def _write(result: Any, path: str) -> str:
    import numpy

    with open(path, "wb") as file:
        numpy.save(file, numpy.asarray(result))
    return path
