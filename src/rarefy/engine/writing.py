"""What a compiled language model takes to write a token, beside the dense model's own `generate`."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.engine.compile import compile as compile_model
from rarefy.engine.decoder.model import CompiledDecoder
from rarefy.engine.rivals.outputs import first_tensor
from rarefy.ops import why_not

Write = Callable[[int], Tensor]  # how many tokens to write -> (1, prompt + tokens)
_TURN = 0.05  # seconds of calls in one turn at least, so that a turn of a small model is no single call
_MOST_CALLS = 20
_PAUSE = 0.01  # seconds before a turn: the threads of the one before stop spinning for work


@dataclass(frozen=True)
class Writing:
    """Greedy tokens behind a prompt, batch 1. rounds: ms a token of each round, by name; same: the share of the tokens
    that are those of the sparse model in torch, up to the first other one; skipped: who wrote none, and why."""

    prompt: int
    tokens: int
    rounds: Mapping[str, tuple[float, ...]]
    same: Mapping[str, float]
    skipped: Mapping[str, str]

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: every round, and what follows from them."""
        timed = {
            name: {
                "rounds": list(rounds),
                "median": self.median(name),
                "best": min(rounds),
                "worst": max(rounds),
                "ratio": self.median(name) / self.median("rarefy"),
                "same": self.same[name],
            }
            for name, rounds in self.rounds.items()
        }
        return {"prompt": self.prompt, "tokens": self.tokens, "timed": timed, "skipped": dict(self.skipped)}

    def __str__(self) -> str:
        lines = [f"a token behind {self.prompt}"]
        for name in sorted(self.rounds, key=self.median):
            ms = self.median(name)
            ratio = f"{ms / self.median('rarefy'):.2f}x"
            said = f"{1000 / ms:>8.1f} tokens/s {ratio:>10}  {self.same[name]:.0%} as the sparse model in torch"
            lines.append(f"  {name:<20} {ms:>6.2f} ms {said}")
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.skipped.items())])


def time_writing(
    fast: CompiledDecoder, dense: nn.Module, batch: Any, *, tokens: int = 16, rounds: int = 5, int8: bool = False
) -> Writing:
    """Times greedy decoding of `tokens` tokens behind the first row of the batch's `input_ids`, rounds interleaved.

    fast: the compiled sparse model; dense: what is called "torch", by its own `generate`; int8: also the sparse model
    with 8-bit weights and inputs. A token's time is that of 1 + `tokens` less that of one, which has the prompt in it.
    """
    ids = _prompt(fast.source, batch, tokens)
    models: dict[str, nn.Module] = {"rarefy": fast, "torch": dense}
    if int8 and why_not() is None:
        models["rarefy-int8"] = compile_model(fast.source, batch, weights="int8", activations="int8")
    wanted = _writer(fast.source, ids)(tokens)
    writers, same, skipped = {}, {}, {}
    for name, model in models.items():
        write = _writer(model, ids)
        try:
            same[name] = _agreement(write(tokens), wanted, ids.shape[1])
        except Exception as error:  # say, a model too short for so many tokens; it spoils nothing
            if name == "rarefy":
                raise
            skipped[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        else:
            writers[name] = write
    names = list(writers)
    found: dict[str, list[float]] = {name: [] for name in names}
    for r in range(rounds):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            time.sleep(_PAUSE)
            found[name].append(1000.0 * _turn(writers[name], tokens))
    return Writing(ids.shape[1], tokens, {n: tuple(t) for n, t in found.items()}, same, skipped)


def _prompt(model: nn.Module, batch: Any, tokens: int) -> Tensor:
    """(1, length), cut where the model would have no places left for what is written."""
    ids: Tensor = batch["input_ids"] if isinstance(batch, Mapping) else first_tensor(batch)
    places = int(getattr(getattr(model, "config", None), "max_position_embeddings", ids.shape[1] + tokens + 1))
    return ids[:1, : max(1, places - tokens - 1)]


def _writer(model: nn.Module, ids: Tensor) -> Write:
    """No token ends the text, so that everyone writes as many."""
    mask = torch.ones_like(ids)

    def write(tokens: int) -> Tensor:
        with torch.inference_mode():
            out: Any = model.generate(  # type: ignore[operator]
                ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
            )
        assert isinstance(out, Tensor)
        return out

    return write


def _turn(write: Write, tokens: int) -> float:
    """Seconds a token, after one call that counts for nothing; where noise hides the prompt, it is counted in."""
    write(1)
    first: list[float] = []
    both: list[float] = []
    while sum(both) < _TURN and len(both) < _MOST_CALLS:
        first.append(_seconds(write, 1))
        both.append(_seconds(write, 1 + tokens))
    whole = statistics.median(both)
    more = whole - statistics.median(first)
    return more / tokens if more > 0.0 else whole / (1 + tokens)


def _seconds(write: Write, tokens: int) -> float:
    started = time.perf_counter()
    write(tokens)
    return time.perf_counter() - started


def _agreement(found: Tensor, wanted: Tensor, prompt: int) -> float:
    """Share of the new tokens before the first that differs."""
    equal = found[0, prompt:] == wanted[0, prompt:]
    return float(equal.long().cumprod(0).float().mean())
