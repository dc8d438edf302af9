"""How selectors hang on a model: hooks that put zeros where a token does not look. No tensor of the model changes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rarefy.core.calls import first_input, take_off, with_first_input
from rarefy.core.errors import ModelError, ShapeError
from rarefy.core.selection import Selection
from rarefy.selectors.foreseen import Watch
from rarefy.selectors.matrix import is_linear, weight_of

Call = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments


@runtime_checkable
class Masking(Protocol):
    """A Selector that also says its choice as a mask, `(..., width)` to bool of the same shape."""

    @property
    def width(self) -> int | None: ...
    def mask(self, x: Tensor) -> Tensor: ...
    def __call__(self, x: Tensor, context: Any = None) -> Selection: ...


class InputSelector:
    """A forward pre-hook that takes keywords: the layer sees `x * mask(x)`, and as `rest` what was dropped where its
    `wants_rest` is true."""

    def __init__(self, selector: Masking) -> None:
        self.selector = selector
        self.active = True

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        x = first_input(args, kwargs)
        if not self.active or x is None:
            return None
        kept = self.kept(x)
        if getattr(module, "wants_rest", False):
            kwargs = {**kwargs, "rest": x - kept}
        return with_first_input(args, kwargs, kept)

    def kept(self, x: Tensor) -> Tensor:
        """What is left of an input, 0 elsewhere."""
        return x * self.selector.mask(x)


class OutputSelector:
    """A forward hook on an activation: what follows sees `a * mask(a)`."""

    def __init__(self, selector: Masking) -> None:
        self.selector = selector
        self.active = True

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output * self.selector.mask(output) if self.active else output


def select_inputs(module: nn.Module, selector: Masking) -> RemovableHandle:
    """Lets a linear layer see only the selected part of its input; the handle's `remove()` undoes it.

    Raises ModelError if the module is no linear layer or has a selector already, ShapeError if the widths differ.
    """
    if not is_linear(module):
        raise ModelError(f"select_inputs: {type(module).__name__} is not a linear layer with a weight (out, in)")
    width = weight_of(module).shape[1]
    if selector.width not in (None, width):
        raise ShapeError(
            f"select_inputs: the selector is made for {selector.width} inputs, {type(module).__name__} has {width}"
        )
    if getattr(selector, "k", 0) > width:
        raise ShapeError(f"select_inputs: the selector keeps {selector.k} inputs, {type(module).__name__} has {width}")  # type: ignore[attr-defined]
    if input_selector(module) is not None:
        raise ModelError(f"select_inputs: {type(module).__name__} has a selector already; call detach(model) first")
    return module.register_forward_pre_hook(InputSelector(selector), with_kwargs=True)


def select_hidden(module: nn.Module | Callable[..., Any] | str, selector: Masking) -> RemovableHandle:
    """Zeroes what an activation module gives where the selector does not keep it: those neurons need no rows of up
    and no columns of down.

    Raises ModelError if `module` is a function or has a selector already.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"select_hidden: the activation {module!r} is a function, which takes no hooks; "
            "make it a module (nn.SiLU(), nn.ReLU()) in the model's config or class"
        )
    if hidden_selector(module) is not None:
        raise ModelError(
            f"select_hidden: this {type(module).__name__} has a selector already; call detach(model) first, "
            "and give every layer an activation module of its own"
        )
    return module.register_forward_hook(OutputSelector(selector))


def require_free(
    what: str, inputs: Mapping[str, object] | None = None, hidden: Mapping[str, object] | None = None
) -> None:
    """ModelError, before anything is attached, where a layer's input or an activation has a selector already."""
    taken = [name for name, module in (inputs or {}).items() if input_selector(module) is not None]
    taken += [name for name, module in (hidden or {}).items() if hidden_selector(module) is not None]
    if taken:
        raise ModelError(f"{what}: {taken[0]} has a selector already; call detach(model) first")


def reselect_inputs(module: nn.Module, selector: Masking) -> None:
    """Puts another selector in the place of the one on a layer's input."""
    hook = next((h for h in module._forward_pre_hooks.values() if isinstance(h, InputSelector)), None)
    if hook is None:
        raise ModelError(f"reselect_inputs: {type(module).__name__} has no selector; use select_inputs")
    hook.selector = selector


def input_selector(module: object) -> Masking | None:
    """The selector on a layer's input, or None."""
    if not isinstance(module, nn.Module):
        return None
    found = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, InputSelector)]
    return found[0].selector if found else None


def hidden_selector(module: object) -> Masking | None:
    """The selector on an activation's output, or None (also for the name of a function)."""
    if not isinstance(module, nn.Module):
        return None
    found = [hook for hook in module._forward_hooks.values() if isinstance(hook, OutputSelector)]
    return found[0].selector if found else None


def attached(model: nn.Module) -> Iterator[tuple[str, nn.Module, Masking]]:
    """(name, module, selector) of everything that has one, inputs and outputs alike, in the order of the modules."""
    for name, module in model.named_modules():
        for selector in (input_selector(module), hidden_selector(module)):
            if selector is not None:
                yield name, module, selector


def _hooks(model: nn.Module) -> Iterator[InputSelector | OutputSelector]:
    for module in model.modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            if isinstance(hook, InputSelector | OutputSelector):
                yield hook


@contextmanager
def paused(model: nn.Module) -> Iterator[None]:
    """While open, the selectors of a model let everything through."""
    hooks = [hook for hook in _hooks(model) if hook.active]
    for hook in hooks:
        hook.active = False
    try:
        yield
    finally:
        for hook in hooks:
            hook.active = True


def detach(model: nn.Module) -> int:
    """Takes all selectors off, and what they foresee by; gives how many selectors there were."""
    ours = (InputSelector, OutputSelector, Watch)
    taken = [hook for module in model.modules() for hook in take_off(module, lambda hook: isinstance(hook, ours))]
    return sum(not isinstance(hook, Watch) for hook in taken)
