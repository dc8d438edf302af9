"""Selectors of a model as the native step takes them, and what they leave of the inputs of the example."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.calls import first_input
from rarefy.ops.decoder import Select
from rarefy.selectors import InputSelector, OutputSelector, Threshold, TopK
from rarefy.selectors.attach import Masking
from rarefy.selectors.block_top_k import BlockTopK
from rarefy.selectors.foreseen import Foreseen, Watch
from rarefy.selectors.positive import Positive
from rarefy.selectors.turned import Adapter, Turn

_MOST_ROWS = 64  # of inputs that are kept for timing


class NotKnownSelectorError(Exception):
    """Why a selector has no native form."""


def native_select(selector: Masking | None, width: int) -> Select | None:
    """A selector of inputs of `width` features as a record for the native step."""
    if selector is None:
        return None
    if selector.width not in (None, width):
        raise NotKnownSelectorError(f"a selector is made for {selector.width} inputs, the layer has {width}")
    if type(selector) is Threshold:
        weight = selector.weight
        return Select(width, _floats(selector.threshold), None if weight is None else _floats(weight))
    if type(selector) is TopK:
        return Select(width, weight=None if selector.weight is None else _floats(selector.weight), keep=selector.k)
    if type(selector) is Positive:
        return Select(width, positive=True)
    if type(selector) is BlockTopK:
        if width % selector.m:
            raise NotKnownSelectorError(f"a selector keeps {selector.n} of every {selector.m}, the layer has {width}")
        return Select(width, keep=selector.n, block=selector.m)
    if type(selector) is Foreseen:
        return Select(width, slot=0)  # which one, `foresights` says
    raise NotKnownSelectorError(
        f"{type(selector).__name__} has no native form; Threshold, TopK, BlockTopK, Positive and Foreseen have"
    )


def _floats(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()


def alike(a: Masking | None, b: Masking | None) -> bool:
    """Whether two selectors keep the same of every input."""
    if a is b:
        return True
    if isinstance(a, Threshold) and isinstance(b, Threshold):
        return torch.equal(a.threshold, b.threshold) and _equal(a.weight, b.weight)
    if isinstance(a, TopK) and isinstance(b, TopK):
        return a.k == b.k and _equal(a.weight, b.weight)
    return isinstance(a, Positive | BlockTopK) and type(a) is type(b) and a == b


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def foreign_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks other than active selectors, what they foresee by, and changes of the basis."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return any(
        not (isinstance(hook, InputSelector | OutputSelector) and hook.active)
        and not isinstance(hook, Adapter | Turn | Watch)
        for hook in hooks
    )


def turns(module: nn.Module) -> list[Any]:
    """A module's hooks that change the basis."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return [hook for hook in hooks if isinstance(hook, Adapter | Turn)]


@contextmanager
def _watched(layers: dict[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    def watch(name: str) -> Any:
        return lambda module, args, kwargs: see(name, first_input(args, kwargs))

    hooks = [layer.register_forward_pre_hook(watch(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def selected_inputs(model: nn.Module, layers: dict[str, nn.Module], ids: Sequence[Tensor]) -> dict[str, Tensor]:
    """Rows (some tokens, in) that layers see behind their selectors while the model reads the examples, by name."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def see(name: str, x: Tensor) -> None:
        found[name].append(x.reshape(-1, x.shape[-1])[-_MOST_ROWS:].float().clone())

    with torch.inference_mode(), _watched(layers, see):
        for example in ids:
            model(input_ids=example, use_cache=False)
    return {name: torch.cat(rows)[-_MOST_ROWS:] for name, rows in found.items() if rows}


def rows_like(sample: Tensor, tokens: int) -> Tensor:
    """`tokens` rows of a sample, or where it has not so many as many that keep the same shares of inputs at random."""
    if len(sample) >= tokens:
        return sample[-tokens:].contiguous()
    generator = torch.Generator().manual_seed(0)
    shape = (tokens, sample.shape[1])
    kept = torch.rand(shape, generator=generator) < (sample != 0).float().mean(0)
    return torch.randn(shape, generator=generator) * kept
