"""The compiled model: called like the original, the same outputs, never slower at the shapes it was compiled for."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rarefy.core.errors import EngineError, RarefyError
from rarefy.engine.calls import inference, untraced
from rarefy.engine.explain import Explanation
from rarefy.engine.free import is_freed, to_dense
from rarefy.engine.lean import lean
from rarefy.engine.misfit import misfit
from rarefy.engine.outward import Outward
from rarefy.engine.variant import Variant, distance, signature

if TYPE_CHECKING:
    from rarefy.engine.choices import Choices
    from rarefy.engine.profile_report import Profile

_MOST_CHOICES = 1024  # signatures remembered; further ones are looked up at each call
_REFUSED = (AssertionError, AttributeError)  # another way may take the call
_MISFIT = (*_REFUSED, RuntimeError, ValueError, TypeError, IndexError)


class Compiled(Outward):
    """Runs the variant compiled for the nearest example; any other call runs with sparse layers, module by module.

    source: the model as it was given (its parameters are shared, not copied; do not change them afterwards: weights
    are packed at compile time). layers: with its sparse layers, or the source again where they gave other outputs.
    Inference only: evaluation mode, no gradients to weights; outputs are ordinary tensors. Finding the variant costs
    some microseconds a call, which are part of the times that decide between the variants.
    """

    _fresh = ("_choices",)

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
        self.__dict__["source"] = source
        self.layers = layers
        self._variants, self._threads = tuple(variants), thread_count
        self._explanation, self.choices = explanation, choices
        self._choices: dict[Any, Callable[..., Any]] = {}
        self._plain = all(v.label == "source" for v in variants)

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
        with inference(self._threads):
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
        with inference(self._threads):
            return own(*args, **kwargs)

    @untraced
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._threads is None and not torch.is_autocast_enabled("cpu"):
            if not torch.is_grad_enabled():
                return self._run(args, kwargs)
            with torch.no_grad():
                return self._run(args, kwargs)
        with inference(self._threads):
            return self._run(args, kwargs)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call, by what ran the last one of its signature: looking for it costs more than a small layer."""
        try:
            key = signature(args, kwargs)
            known = self._choices.get(key)
        except TypeError:  # an argument that cannot be hashed
            return self._guarded(self._nearest(args, kwargs), args, kwargs)[0]
        if known is not None:
            try:
                return known(*args, **kwargs)
            except _MISFIT:
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
            except _REFUSED as error:
                why: Exception = error
            except _MISFIT as error:
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
