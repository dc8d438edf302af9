"""The compiled model: called like the original, the same outputs, never slower at the shapes it was compiled for."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import EngineError, RarefyError
from rarefy.engine.capture import Example
from rarefy.engine.explain import Explanation
from rarefy.engine.free import is_freed, to_dense
from rarefy.engine.lean import lean

if TYPE_CHECKING:
    from rarefy.engine.choices import Choices
    from rarefy.engine.profile_report import Profile
from rarefy.engine.misfit import misfit


@dataclass(frozen=True)
class Variant:
    """One way to run the model, chosen for the calls that look like `example` (structure, types, sizes)."""

    example: Example
    run: Callable[..., Any]
    label: str  # "graph", "layers" or "source"


_MOST_CHOICES = 1024  # signatures remembered; further ones are looked up at each call


def _leaves(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(str(i), a) for i, a in enumerate(args)] + sorted(kwargs.items())


def distance(example: Example, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """How far the sizes of a call are from an example's; None if its structure or types differ."""
    mine, theirs = _leaves(*example), _leaves(args, kwargs)
    if [name for name, _ in mine] != [name for name, _ in theirs]:
        return None
    return _away([value for _, value in mine], [value for _, value in theirs])


def _away(mine: Any, theirs: Any) -> float | None:
    """Of two arguments, which may hold others; constants have to be the same, 1 and True are not."""
    if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
        alike = mine.dim() == theirs.dim() and mine.dtype == theirs.dtype and mine.shape[2:] == theirs.shape[2:]
        return abs(float(mine.numel() - theirs.numel())) if alike else None
    if type(mine) is not type(theirs):
        return None
    if isinstance(mine, Mapping):
        names = list(mine)
        same = set(names) == set(theirs)
        return _away([mine[name] for name in names], [theirs[name] for name in names]) if same else None
    if isinstance(mine, list | tuple):
        each = [_away(a, b) for a, b in zip(mine, theirs, strict=False)]
        return math.fsum(x for x in each if x is not None) if len(mine) == len(theirs) and None not in each else None
    return 0.0 if mine is theirs or mine == theirs else None


def signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """What `distance` looks at, as a key; TypeError for arguments that cannot be hashed."""
    every = (*args, *kwargs.values())
    leaves = [(a.shape, a.dtype, a.device) if isinstance(a, Tensor) else (type(a), a) for a in every]
    key = (len(args), *kwargs, *leaves)
    hash(key)
    return key


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Runs with `count` torch threads and puts the number back."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Compiled(nn.Module):
    """Runs the variant compiled for the nearest example; any other call runs with sparse layers, module by module.

    source: the model as it was given (its parameters are shared, not copied; do not change them afterwards: weights
    are packed at compile time). layers: with its sparse layers, or the source again where they gave other outputs.
    Inference only: evaluation mode, no gradients to weights; outputs are ordinary tensors. Finding the variant costs
    some microseconds a call, which are part of the times that decide between the variants.
    """

    source: nn.Module

    def __init__(
        self,
        source: nn.Module,
        layers: nn.Module,
        variants: Sequence[Variant],
        explanation: Explanation | None,
        thread_count: int | None,
        choices: "Choices | None" = None,
    ) -> None:
        super().__init__()
        self.__dict__["source"] = source  # not a submodule: its parameters are reached through `layers`
        self.layers = layers
        self._variants, self._threads = tuple(variants), thread_count
        self._explanation, self.choices = explanation, choices
        self._choices: dict[Any, Callable[..., Any]] = {}
        self._plain = all(v.label == "source" for v in variants)

    @property
    def config(self) -> Any:
        return getattr(self.source, "config", None)

    def explain(self) -> Explanation:
        """The choice, the time of each candidate and the reason, layer by layer, and the whole model's times."""
        assert self._explanation is not None, "only while the variants are being timed"
        return self._explanation

    def profile(self, *args: Any, rounds: int = 5, **kwargs: Any) -> "Profile":
        """Where the time of a call with these arguments goes, step by step: milliseconds, kernel, bytes, rates and the
        share of the roofline of this machine. Without arguments those of the first example.

        A call that its graph refuses is profiled layer by layer. Raises what the call itself raises.
        """
        from rarefy.engine.profile import profile_run

        args, kwargs = (args, kwargs) if args or kwargs else self._variants[0].example
        run = self._nearest(args, kwargs)
        known = next((v.label for v in self._variants if v.run is run), "layers")
        call = partial(self, *args, **kwargs)
        with threads(self._threads):
            call()  # what is wrong with the arguments is said here
            try:
                return profile_run(run, known, call, (args, kwargs), rounds)
            except AssertionError:
                return profile_run(self.layers, "layers", call, (args, kwargs), rounds)

    @property
    def freed(self) -> bool:
        """Whether dense weights were let go, so that `source` cannot run."""
        return is_freed(self.layers)

    def to_dense(self) -> nn.Module:
        """The plain model: `source`, or where its weights were let go, a new one with the weights as they are stored
        (rounded if the model was compiled for a narrower type)."""
        return to_dense(self.layers) if self.freed else self.source

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own `generate`, with sparse layers where they are faster. Raises EngineError without one."""
        own = getattr(self.layers, "generate", None)
        if own is None:
            raise EngineError(f"generate: {type(self.source).__name__} has no generate of its own")
        with threads(self._threads), torch.no_grad():
            return own(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._threads is None:
            if not torch.is_grad_enabled():
                return self._run(args, kwargs)
            with torch.no_grad():
                return self._run(args, kwargs)
        with threads(self._threads), torch.no_grad():
            return self._run(args, kwargs)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call, by what ran the last one of its signature: looking for it costs more than a small layer."""
        try:
            key = signature(args, kwargs)
            known = self._choices.get(key)
        except TypeError:  # an argument that cannot be hashed
            return self._guarded(self._nearest(args, kwargs), args, kwargs)[0]
        if known is not None:
            return self._guarded(known, args, kwargs)[0]
        out, ran = self._guarded(self._nearest(args, kwargs), args, kwargs)
        if len(self._choices) < _MOST_CHOICES:
            self._choices[key] = lean(ran, args, kwargs) or ran
        return out

    def _guarded(
        self, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Callable[..., Any]]:
        """What the call gives, and what gave it: `run`, the layers one by one where it refused the sizes, or the source
        where it looks into a layer for what the packed one has not."""
        for way in self._ways(run):
            try:
                return way(*args, **kwargs), way
            except (AssertionError, AttributeError) as error:
                why: Exception = error
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise self._misfit(args, kwargs, error) from error
        raise self._misfit(args, kwargs, why) from why

    def _ways(self, run: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
        """In the order of trying; what a call seldom comes to is looked at only then."""
        yield run
        if run is not self.layers:
            yield self.layers
        if self.source not in (run, self.layers) and not self.freed:
            yield self.source

    def _misfit(self, args: tuple[Any, ...], kwargs: dict[str, Any], why: Exception) -> RarefyError:
        """The error of a call that the model cannot run, named by its inputs."""
        return misfit(self.source, [v.example for v in self._variants], args, kwargs, why)

    def _nearest(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any]:
        """The variant of the nearest example, or the layers one by one where none has the call's structure."""
        if self._plain:
            return self.source
        far = [(distance(v.example, args, kwargs), v) for v in self._variants]
        fitting = [(away, v) for away, v in far if away is not None]
        return min(fitting, key=lambda pair: pair[0])[1].run if fitting else self.layers

    def train(self, mode: bool = True) -> "Compiled":
        if mode:
            raise RuntimeError("Compiled.train: a compiled model is for inference; train .source and compile again")
        return self
