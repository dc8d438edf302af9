"""Generation: a prompt at once, then token by token over a preallocated cache."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import EngineError, ShapeError
from rarefy.engine.decoder.cache import DecoderCache
from rarefy.engine.decoder.runner import Runner
from rarefy.engine.decoder.sampling import Sampling

Stop = Callable[[Tensor, Any], Any]  # (ids so far, None) -> bool, or bool for each text


@dataclass(frozen=True)
class Request:
    """What to generate. max_new_tokens: at most; eos: ids that end a text; pad: what fills a text that has ended."""

    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    eos: tuple[int, ...] = ()
    pad: int = 0
    generator: torch.Generator | None = None
    streamer: Any = None
    stops: Sequence[Stop] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise EngineError(f"generate: max_new_tokens={self.max_new_tokens} is zero or negative; ask for 1 or more")

    @property
    def fills(self) -> bool:
        """Whether a text that has ended is filled: without an end token transformers goes on drawing for it."""
        return bool(self.eos) or any(hasattr(stop, "eos_token_id") for stop in self.stops)


@dataclass
class Timings:
    """Seconds of the last call: the prompt, and each new token after the first."""

    prompt: float = 0.0
    tokens: list[float] = field(default_factory=list)


def positions_of(mask: Tensor | None, batch: int, tokens: int, past: int = 0) -> Tensor:
    """int64 (batch, tokens): slot numbers, or with a mask (batch, past + tokens) how many kept tokens stand before."""
    if mask is None:
        return torch.arange(past, past + tokens).expand(batch, tokens).contiguous()
    return (mask.long().cumsum(1) - 1).clamp_min(0)[:, past:].contiguous()


def generate(
    runner: Runner, ids: Tensor, mask: Tensor | None, request: Request, timings: Timings | None = None
) -> Tensor:
    """The prompt with what was generated behind it, int64 (batch, prompt + new); texts that ended early are padded."""
    batch, prompt = ids.shape
    if prompt == 0:
        raise ShapeError("generate: the prompt is empty; give at least one token, such as the begin-of-text token")
    most = prompt + request.max_new_tokens
    runner.require_length("generate", most)
    cache = runner.cache(batch, most)
    cache.see(mask, prompt)
    out = torch.full((batch, most), request.pad, dtype=torch.int64)
    out[:, :prompt] = ids
    if request.streamer is not None:
        request.streamer.put(ids)
    end = _tokens(runner, out, mask, cache, request, timings) if out[:, prompt:].numel() else most
    if request.streamer is not None:
        request.streamer.end()
    return out[:, :end]


def _tokens(
    runner: Runner, out: Tensor, mask: Tensor | None, cache: DecoderCache, request: Request, timings: Timings | None
) -> int:
    """Writes new tokens into `out` behind the prompt; returns where the longest text ends."""
    batch, most = out.shape
    prompt = most - request.max_new_tokens
    clock = time.perf_counter()
    logits = runner.run(out[:, :prompt].contiguous(), positions_of(mask, batch, prompt), cache, last_only=True)
    position = (positions_of(mask, batch, prompt)[:, -1:] + 1).contiguous()
    newest = torch.empty(batch, 1, dtype=torch.int64)
    running = torch.ones(batch, dtype=torch.bool)
    eos = torch.tensor(request.eos, dtype=torch.int64)
    following, advance = runner.stepper(newest, position, cache)
    for at in range(prompt, most):
        token = request.sampling.next(logits[:, -1], request.generator)
        if request.fills and not running.all():
            token = torch.where(running, token, request.pad)
        out[:, at] = token
        newest[:, 0] = token
        if timings is not None:
            clock = _time(timings, clock, first=at == prompt)
        if request.streamer is not None:
            request.streamer.put(token)
        if _ended(running, token, eos, request, out[:, : at + 1]):
            return at + 1
        if at + 1 < most:
            advance()
            logits = following
            position += 1
    return most


def _time(timings: Timings, since: float, first: bool) -> float:
    now = time.perf_counter()
    if first:
        timings.prompt = now - since
    else:
        timings.tokens.append(now - since)
    return now


def _ended(running: Tensor, token: Tensor, eos: Tensor, request: Request, so_far: Tensor) -> bool:
    """Takes texts that end with this token out of `running`; True when none is left."""
    if request.eos:
        running &= ~torch.isin(token, eos)
    for stop in request.stops:
        running &= ~torch.as_tensor(stop(so_far, None), dtype=torch.bool)
    return bool((request.eos or request.stops) and not running.any())
