"""What holds for one call to `generate`: its arguments over the given generation config over the model's own."""

import operator
from typing import Any

from torch import nn

from rarefy.core.errors import EngineError

_NO_SETTINGS = {"streamer", "stopping_criteria", "generator", "seed", "generation_config", "attention_mask"}


def require_new_tokens(name: str, value: Any) -> int:
    """The count of new tokens, or an error that says what is wrong with it."""
    try:
        count = operator.index(value)
    except TypeError:
        raise EngineError(f"generate: {name}={value!r} is no whole number; give a count of tokens") from None
    if count < 1:
        raise EngineError(f"generate: {name}={count} is zero or negative; ask for 1 token or more")
    return count


def settings_of(model: nn.Module, kwargs: dict[str, Any]) -> Any:
    """A generation config, merged by the model's own `generate` as the installed transformers does it: an argument
    holds even where it is None. Raises EngineError where transformers refuses what is asked for."""
    if kwargs.get("max_new_tokens") is not None:
        require_new_tokens("max_new_tokens", kwargs["max_new_tokens"])
    source: Any = model
    given = {name: value for name, value in kwargs.items() if name not in _NO_SETTINGS}
    try:
        merged, _ = source._prepare_generation_config(kwargs.get("generation_config"), **given)
    except ValueError as error:
        raise EngineError(f"generate: transformers refuses these settings: {error}") from error
    return merged


def length_is_usual(model: nn.Module, kwargs: dict[str, Any], settings: Any) -> bool:
    """Whether nobody has set `max_length`. Before transformers 5 a fresh config has a number there, which stands for
    so many tokens behind the prompt; since then it has None, which the merging fills."""
    if kwargs.get("max_length") is not None:
        return False
    usual = getattr(type(settings)(), "max_length", None)
    if usual is not None:
        return bool(settings.max_length == usual)
    configs = (kwargs.get("generation_config"), getattr(model, "generation_config", None))
    return all(getattr(config, "max_length", None) is None for config in configs)
