"""The arguments of `generate` as transformers has them, and where their defaults come from."""

import operator
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import EngineError
from rarefy.engine.decoder.generate import Request
from rarefy.engine.decoder.sampling import Sampling

_DEFAULTS: dict[str, Any] = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
_NEW_TOKENS = 20  # where nothing says how many
_OURS = {
    "max_new_tokens",
    "max_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "eos_token_id",
    "pad_token_id",
    "streamer",
    "stopping_criteria",
    "generator",
    "seed",
    "use_cache",
    "generation_config",
    "attention_mask",
}
# Settings of a generation config that change what is generated, and the value at which they do not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "bad_words_ids": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "min_p": (None, 0.0),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "sequence_bias": (None,),
    "guidance_scale": (None, 1.0),
    "penalty_alpha": (None, 0.0),
    "assistant_model": (None,),
    "prompt_lookup_num_tokens": (None,),
    "stop_strings": (None,),
    "max_time": (None,),
    "return_dict_in_generate": (None, False),
    "remove_invalid_values": (None, False),
    "exponential_decay_length_penalty": (None,),
    "watermarking_config": (None,),
    "token_healing": (None, False),
}


def unsupported(model: nn.Module, kwargs: dict[str, Any]) -> str | None:
    """The first argument or setting that only the source model's own `generate` knows, or None."""
    config = kwargs.get("generation_config") or getattr(model, "generation_config", None)
    for name, value in kwargs.items():
        if name not in _OURS and value not in _NEUTRAL.get(name, ()):
            return name
    for name, neutral in _NEUTRAL.items():
        if name not in kwargs and getattr(config, name, None) not in neutral:
            return name
    return None


def _setting(model: nn.Module, kwargs: dict[str, Any], name: str) -> Any:
    """The argument, else what the given or the model's generation config says, else the usual default."""
    if kwargs.get(name) is not None:
        return kwargs[name]
    config = kwargs.get("generation_config") or getattr(model, "generation_config", None)
    found = getattr(config, name, None)
    return _DEFAULTS.get(name) if found is None else found


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    if isinstance(value, Tensor):
        value = value.tolist()
    return (int(value),) if isinstance(value, int) else tuple(int(v) for v in value)


def _generator(kwargs: dict[str, Any]) -> torch.Generator | None:
    if kwargs.get("generator") is not None and kwargs.get("seed") is not None:
        raise EngineError("generate: both generator and seed are given; give one of them")
    if kwargs.get("seed") is not None:
        return torch.Generator().manual_seed(int(kwargs["seed"]))
    found = kwargs.get("generator")
    assert found is None or isinstance(found, torch.Generator)
    return found


def _new_tokens(model: nn.Module, kwargs: dict[str, Any], prompt: int) -> int:
    new = kwargs.get("max_new_tokens")
    if new is None and kwargs.get("max_length") is None:
        new = _setting(model, kwargs, "max_new_tokens")
    if new is not None:
        return _whole("max_new_tokens", new)
    length = _setting(model, kwargs, "max_length")
    if length is None or (kwargs.get("max_length") is None and length == _usual_length(model, kwargs)):
        return _NEW_TOKENS
    if length <= prompt:
        raise EngineError(f"generate: max_length={length} leaves no room behind a prompt of {prompt} tokens")
    return _whole("max_length", length) - prompt


def _usual_length(model: nn.Module, kwargs: dict[str, Any]) -> int | None:
    """The `max_length` of a generation config where nobody has set one: a number before transformers 5, where it
    stands for so many tokens behind the prompt."""
    config = kwargs.get("generation_config") or getattr(model, "generation_config", None)
    found: int | None = None if config is None else getattr(type(config)(), "max_length", None)
    return found


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise EngineError(f"generate: {name}={value!r} is no whole number; give a count of tokens") from None


def request_of(model: nn.Module, kwargs: dict[str, Any], prompt: int) -> Request:
    """What the arguments of a call to `generate` ask for, for a prompt of so many tokens."""
    eos, pad = _ids(_setting(model, kwargs, "eos_token_id")), _setting(model, kwargs, "pad_token_id")
    stops = kwargs.get("stopping_criteria") or ()
    sampling = Sampling(
        bool(_setting(model, kwargs, "do_sample")),
        float(_setting(model, kwargs, "temperature")),
        _setting(model, kwargs, "top_k"),
        _setting(model, kwargs, "top_p"),
    )
    return Request(
        _new_tokens(model, kwargs, prompt),
        sampling,
        eos,
        (eos[0] if eos else 0) if pad is None else int(pad),
        _generator(kwargs),
        kwargs.get("streamer"),
        tuple(stops) if isinstance(stops, list | tuple) else (stops,),
    )


def mask_for(model: nn.Module, kwargs: dict[str, Any], ids: Tensor) -> Tensor | None:
    """The attention mask: as given, or 0 at the padding token where the prompt holds one that does not end texts."""
    mask = kwargs.get("attention_mask")
    if mask is not None:
        assert isinstance(mask, Tensor)
        return mask
    pad, eos = _setting(model, kwargs, "pad_token_id"), _ids(_setting(model, kwargs, "eos_token_id"))
    if pad is None or int(pad) in eos or not bool((ids == int(pad)).any()):
        return None
    return (ids != int(pad)).long()
