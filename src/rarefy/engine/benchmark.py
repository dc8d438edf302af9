"""Our compiled model beside dense torch and the rivals: same inputs, same threads, rounds interleaved."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import DataError, RarefyError
from rarefy.engine.benchmark_report import BenchmarkReport, ShapeTimes, Timed
from rarefy.engine.compile import compile as compile_model
from rarefy.engine.cpu import cpu_name
from rarefy.engine.decoder.model import CompiledDecoder
from rarefy.engine.narrow import Narrow
from rarefy.engine.rivals import Ready, Rival, find
from rarefy.engine.rivals.outputs import agreement, relative_error, tensors_of
from rarefy.engine.rivals.protocol import isa_of
from rarefy.engine.rivals.torch_eager import TorchEager
from rarefy.engine.writing import time_writing

Progress = Callable[[str, int, int], None]  # (what is being done, how much is done, how much there is)
OURS = "rarefy"
_PAUSE = 0.01  # seconds before a turn: the threads of the one before stop spinning for work
_TURN = 0.05  # seconds of calls in one turn at least, so that a turn of a small model is no single call
_MOST_CALLS = 20
_WRITING = 5  # rounds of writing, at most: a dense model takes long for one


def benchmark(
    model: nn.Module,
    example_inputs: Any,
    *,
    against: str | Sequence[str | Rival] = ("torch",),
    dense: nn.Module | None = None,
    calibration: Sequence[Any] = (),
    rounds: int = 7,
    threads: int | None = None,
    int8: bool = False,
    new_tokens: int = 16,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Times `rarefy.compile(model)` and each rival; every round's time is kept.

    model: a pruned model, or one that is compiled already. example_inputs: a batch (a tensor, a tuple, a dict), or
    a list of batches for several shapes. against: names (`rarefy.engine.rivals.RIVALS`) or "all"; a rival that is not
    installed is named with the reason. dense: what the rivals run (by default the model itself, whose zeros cost a
    dense engine as much as any number). calibration: real inputs for rivals that quantise. rounds: turns of each.
    int8: also times the sparse model with 8-bit weights and inputs, as "rarefy-int8" (of a compiled model: its source).
    new_tokens: a language model that compiles to a decoder is also timed writing so many tokens behind the first row of
    the first batch, beside the dense model's own `generate` (`report.writing`); 0: not.
    Each turn is the median of the calls that fit in 50 ms. Each rival's output is compared with eager torch's.
    """
    batches = as_shapes(example_inputs)
    if new_tokens < 0:
        raise DataError(f"benchmark: new_tokens={new_tokens}; give how many tokens to write, 0 for none")
    if rounds < 1:
        raise DataError(f"benchmark: rounds={rounds}; give at least 1, 5 or more for figures to rely on")
    rivals = [*find(against), *([Narrow()] if int8 else [])]
    skipped = {r.name: why for r in rivals if (why := r.available()) is not None}
    usable = [r for r in rivals if r.name not in skipped]
    with _threads(threads), torch.no_grad():
        fast, source = _ours(model, batches)
        rival_model = source if dense is None else dense
        was_training = rival_model.training
        rival_model.eval()
        shapes = []
        for i, batch in enumerate(batches):
            contest = _Contest(batch, fast, source, rival_model, usable, calibration, skipped)
            if progress is not None:
                progress(f"timing {label(batch)}", i, len(batches))
            shapes.append(contest.run(rounds))
        writing = None
        if isinstance(fast, CompiledDecoder) and new_tokens:
            writing = time_writing(
                fast, rival_model, batches[0], tokens=new_tokens, rounds=min(rounds, _WRITING), int8=int8
            )
        rival_model.train(was_training)
        if progress is not None:
            progress("timing", len(batches), len(batches))
        return BenchmarkReport(tuple(shapes), skipped, torch.get_num_threads(), cpu_name(), writing)


def as_shapes(example_inputs: Any) -> list[Any]:
    """A list of batches, one a shape."""
    batches = list(example_inputs) if isinstance(example_inputs, list) else [example_inputs]
    if not batches or any(not tensors_of(batch) for batch in batches):
        raise DataError("benchmark: example_inputs is empty; give a batch of the model's inputs, or a list of batches")
    return batches


def label(batch: Any) -> str:
    """The shape of a batch as users say it: `16x128`."""
    return "x".join(str(n) for n in next(iter(tensors_of(batch).values())).shape)


class _threads:
    """Context: torch's thread count, restored after."""

    def __init__(self, count: int | None) -> None:
        self.count, self.before = count, torch.get_num_threads()

    def __enter__(self) -> None:
        if self.count is not None:
            torch.set_num_threads(self.count)

    def __exit__(self, *exc: object) -> None:
        torch.set_num_threads(self.before)


def _ours(model: nn.Module, batches: list[Any]) -> tuple[nn.Module, nn.Module]:
    """(compiled, source): compiles the model unless it came compiled."""
    source = getattr(model, "source", None)
    if isinstance(source, nn.Module):
        return model, source
    return compile_model(model, batches), model


class _Contest:
    """Everyone prepared for one shape."""

    def __init__(
        self,
        batch: Any,
        fast: nn.Module,
        source: nn.Module,
        dense: nn.Module,
        rivals: Sequence[Rival],
        calibration: Sequence[Any],
        skipped: dict[str, str],
    ) -> None:
        self.batch = batch
        self.ready: dict[str, Ready] = {OURS: TorchEager().prepare(fast, batch, ())}
        self.facts: dict[str, dict[str, Any]] = {}
        dense_output = TorchEager().prepare(dense, batch, ())(batch)
        source_output = dense_output if source is dense else TorchEager().prepare(source, batch, ())(batch)
        self._check(OURS, "fp32", source_output, 0.0)
        for rival in rivals:
            started = time.perf_counter()
            own = isinstance(rival, Narrow)
            try:
                self.ready[rival.name] = rival.prepare(source if own else dense, batch, calibration)
                reference = source_output if own else dense_output
                self._check(rival.name, rival.precision, reference, time.perf_counter() - started)
            except Exception as error:  # a rival that fails says so in the table and spoils nothing
                if isinstance(error, RarefyError):
                    raise
                self.ready.pop(rival.name, None)
                skipped[rival.name] = f"failed on {label(batch)}: {type(error).__name__}: {str(error).splitlines()[0]}"

    def _check(self, name: str, precision: str, reference: Tensor, seconds: float) -> None:
        output = self.ready[name](self.batch)
        self.facts[name] = {
            "precision": precision,
            "isa": isa_of(precision),
            "cosine": agreement(output, reference),
            "error": relative_error(output, reference),
            "prepare_seconds": seconds,
        }

    def run(self, rounds: int) -> ShapeTimes:
        """Everyone has a turn in each round, and a different one begins each round."""
        names = list(self.ready)
        order: list[str] = []
        times: dict[str, list[float]] = {name: [] for name in names}
        for r in range(rounds):
            for name in names[r % len(names) :] + names[: r % len(names)]:
                order.append(name)
                times[name].append(_turn(self.ready[name], self.batch))
        timed = {name: Timed(tuple(times[name]), **self.facts[name]) for name in names}
        return ShapeTimes(label(self.batch), timed, tuple(order))


def _turn(run: Ready, batch: Any) -> float:
    """Milliseconds of one call: the median of a turn, after one call that counts for nothing."""
    time.sleep(_PAUSE)
    run(batch)
    calls: list[float] = []
    while sum(calls) < _TURN and len(calls) < _MOST_CALLS:
        started = time.perf_counter()
        run(batch)
        calls.append(time.perf_counter() - started)
    return 1000.0 * sorted(calls)[len(calls) // 2]
