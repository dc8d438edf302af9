"""A pass of a decoder that goes on with some of its tokens from one block on."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import ModelError

Choose = Callable[[], Tensor]  # the indices of the tokens that go on, asked when the first later block begins


@contextmanager
def cut_after(blocks: Sequence[nn.Module], last: int, tokens: int, choose: Choose) -> Iterator[None]:
    """While open, the blocks after `last` see only the tokens that `choose()` names, in their order.

    Hidden states, masks, positions and rotations of all tokens are cut at the blocks' doors, by their names. What comes
    out of the last block is of the old length again, with zeros at the others: classes such as GPT-2 count on it.
    """
    handles = []
    try:
        for number, block in enumerate(blocks[last + 1 :]):
            hook = _Cut(inspect.signature(block.forward), tokens, choose, first=number == 0)
            handles.append(block.register_forward_pre_hook(hook, with_kwargs=True))
        handles.append(blocks[-1].register_forward_hook(lambda module, args, out: _back(out, tokens, choose())))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Cut:
    def __init__(self, signature: inspect.Signature, tokens: int, choose: Choose, *, first: bool) -> None:
        self.signature, self.tokens, self.choose, self.first = signature, tokens, choose, first

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        index = self.choose()
        bound = self.signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name == "hidden_states":
                bound.arguments[name] = value[:, index] if self.first else value
            elif name == "kwargs":
                bound.arguments[name] = {key: self._cut(key, part, index) for key, part in value.items()}
            else:
                bound.arguments[name] = self._cut(name, value, index)
        return bound.args, bound.kwargs

    def _cut(self, name: str, value: Any, index: Tensor) -> Any:
        if name == "attention_mask" and isinstance(value, Tensor):
            return self._mask(value, index)
        if name == "position_embeddings" and value is not None:
            return tuple(part[:, index] for part in value)
        if name in ("position_ids", "cache_position") and isinstance(value, Tensor):
            return value[..., index]
        return value

    def _mask(self, mask: Tensor, index: Tensor) -> Tensor:
        if mask.dim() != 4 or mask.shape[-2:] != (self.tokens, self.tokens):
            raise ModelError(
                f"corematching: an attention mask of {tuple(mask.shape)}; a block takes none, or (batch, heads, "
                f"{self.tokens}, {self.tokens}); load the model with attn_implementation='sdpa' or 'eager'"
            )
        return mask[:, :, index][..., index]


def _back(output: Any, tokens: int, index: Tensor) -> Any:
    if isinstance(output, tuple):  # older releases give (hidden states, ...)
        return (_back(output[0], tokens, index), *output[1:])
    whole = output.new_zeros(len(output), tokens, output.shape[-1])
    return whole.index_copy(1, index, output)


def trim_cache(cache: Any, index: Tensor, last: int) -> None:
    """Leaves only some tokens in the keys and values of the blocks up to `last`; later ones have no others."""
    for layer in cache.layers[: last + 1]:
        layer.keys = layer.keys.index_select(-2, index)
        layer.values = layer.values.index_select(-2, index)


def blocks_of(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The modules of these names. Raises ModelError where two feed-forward layers share a block, or one has none."""
    if "" in names or len(set(names)) != len(names):
        raise ModelError(f"{type(model).__name__}: its feed-forward layers do not lie in numbered blocks, one in each")
    return [model.get_submodule(name) for name in names]


def new_cache() -> Any:
    """An empty cache of transformers that grows token by token, whatever the model's attention windows.

    Raises ModelError where transformers is too old to have one whose tokens can be dropped.
    """
    from transformers import DynamicCache, __version__

    cache = DynamicCache()
    if not hasattr(cache, "layers"):
        raise ModelError(
            f"corematching: transformers {__version__} keeps keys and values in another form; "
            "install a later release (5 does)"
        )
    return cache


def last_logits(model: nn.Module, *, positions: Sequence[int], cache: Any, **inputs: Tensor) -> Tensor:
    """The logits (vocabulary,) after the last token of a batch of one, whose tokens are at these positions."""
    few = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    places = torch.tensor([list(positions)], device=next(iter(inputs.values())).device)
    found = model(**inputs, **few, position_ids=places, past_key_values=cache, use_cache=True, return_dict=True)
    return found.logits[0, -1]
