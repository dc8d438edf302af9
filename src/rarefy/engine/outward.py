"""What a compiled model is to code that was written for the model it came from."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from rarefy.core.errors import EngineError, ModelError

if TYPE_CHECKING:
    from rarefy.engine.choices import Choices

_Self = TypeVar("_Self", bound="Outward")


class Outward(nn.Module):
    """The base of compiled models: `config`, `device`, `dtype` and the like, as pipelines ask a model for them; copies
    and pickles; and by name what a compiled model cannot be: trained, moved, converted, traced, or given weights.

    source: the model as it was given. It is no submodule: what walks over modules must not find it.
    """

    source: nn.Module
    choices: "Choices | None"
    _fresh: tuple[str, ...] = ()  # attributes that a copy makes anew: they lead back to this one

    @property
    @abstractmethod
    def freed(self) -> bool:
        """Whether dense weights were let go, so that `source` cannot run."""

    @abstractmethod
    def to_dense(self) -> nn.Module:
        """The plain model: `source`, or where its weights were let go, a new one with those that are stored."""

    def as_given(self, what: str) -> nn.Module:
        """The plain model with the weights that it was compiled from, for `what`.

        Raises ModelError where they were let go and those that are left are rounded.
        """
        if self.freed and (self.choices is None or not self.choices.precision.exact):
            types = "narrower types" if self.choices is None else self.choices.precision
            raise ModelError(
                f"{what}: the model's weights were let go when it was compiled for {types}, and what is "
                "left is rounded; save it before compiling, or compile with keep_dense=True"
            )
        return self.to_dense()

    @property
    def config(self) -> Any:
        return getattr(self.source, "config", None)

    @property
    def generation_config(self) -> Any:
        return getattr(self.source, "generation_config", None)

    @property
    def main_input_name(self) -> str | None:
        name = getattr(self.source, "main_input_name", None)
        return name if isinstance(name, str) else None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of floating-point inputs and outputs, whatever the weights are stored as."""
        floats = (p.dtype for p in self.source.parameters() if p.is_floating_point())
        return next(floats, torch.float32)

    def can_generate(self) -> bool:
        """Whether the model writes texts, as transformers asks it."""
        return bool(getattr(self.source, "can_generate", lambda: False)())

    def train(self: _Self, mode: bool = True) -> _Self:
        if mode:
            raise EngineError(
                f"{type(self).__name__}.train: a compiled model is for inference; train .source and compile again"
            )
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> NoReturn:
        raise EngineError(
            f"{type(self).__name__}.load_state_dict: the weights of a compiled model are packed; load them into the "
            "plain model (.to_dense()) and compile it again"
        )

    def _apply(self: _Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Self:
        """What `to`, `half`, `cuda`, ... come down to: nothing, or an error."""
        for tensor in (*self.parameters(), *self.buffers()):
            same, made = tensor.new_empty(0), fn(tensor.new_empty(0))
            if (made.dtype, made.device.type) != (same.dtype, same.device.type):
                raise EngineError(
                    f"{type(self).__name__}: cannot be converted from {same.dtype} on {same.device} to {made.dtype} on "
                    f"{made.device}: it is packed for the CPU and for the types that it was compiled for; convert the "
                    "plain model (.to_dense()), or compile it with other weights= and activations="
                )
        return super()._apply(fn, recurse)

    def _slow_forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """What nn.Module calls in place of `forward` while torch.jit.trace looks on."""
        raise EngineError(
            f"{type(self).__name__}: torch.jit.trace cannot see the native calls of a compiled model; trace the plain "
            "model (.to_dense()), or keep the compiled one with rarefy.save"
        )

    def __copy__(self: _Self) -> _Self:
        return self._twin(lambda value: value)

    def __deepcopy__(self: _Self, memo: dict[int, Any]) -> _Self:
        """Packed weights are shared: nothing changes them."""
        return self._twin(lambda value: copy.deepcopy(value, memo), memo)

    def _twin(self: _Self, of: Callable[[Any], Any], memo: dict[int, Any] | None = None) -> _Self:
        twin = type(self).__new__(type(self))
        if memo is not None:
            memo[id(self)] = twin
        twin.__dict__.update({name: of(value) for name, value in self.__dict__.items() if name not in self._fresh})
        twin.__dict__.update({name: type(self.__dict__[name])() for name in self._fresh})
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the plain model and what was chosen; whoever reads it compiles again."""
        if self.choices is None:
            raise EngineError(f"{type(self).__name__}: only a model that is compiled to its end can be pickled")
        return _compiled_again, (self.as_given("pickle"), self.choices, not self.freed)


def _compiled_again(model: nn.Module, choices: "Choices", keep_dense: bool) -> nn.Module:
    from rarefy.engine.compile import compile_again  # which makes what is based on this

    return compile_again(model, choices, "compiled again from a pickle", keep_dense=keep_dense)
