"""The arguments of `generate` as transformers has them, and what they ask for."""

from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import EngineError
from rarefy.engine.decoder.generate import Request
from rarefy.engine.decoder.sampling import Sampling
from rarefy.engine.decoder.settings import length_is_usual, require_new_tokens

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
    "encoder_no_repeat_ngram_size": (None, 0),
    "top_h": (None,),
    "renormalize_logits": (None, False),
    "dola_layers": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
    "assistant_early_exit": (None,),
    "use_mtp": (None, False),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
    "output_scores": (None, False),
    "output_logits": (None, False),
}


def unsupported(kwargs: dict[str, Any]) -> str | None:
    """The first argument that only the source model's own `generate` knows, or None."""
    for name, value in kwargs.items():
        if name not in _OURS and value is not None and value not in _NEUTRAL.get(name, ()):
            return name
    return None


def unsupported_setting(settings: Any) -> str | None:
    """The first setting of the merged generation config that only the source model's `generate` knows, or None."""
    for name, neutral in _NEUTRAL.items():
        if getattr(settings, name, None) not in neutral:
            return name
    return None


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


def _new_tokens(model: nn.Module, kwargs: dict[str, Any], settings: Any, prompt: int) -> int:
    if settings.max_new_tokens is not None:
        return require_new_tokens("max_new_tokens", settings.max_new_tokens)
    length = settings.max_length
    if length is None or length_is_usual(model, kwargs, settings):
        return _NEW_TOKENS
    if length <= prompt:
        raise EngineError(f"generate: max_length={length} leaves no room behind a prompt of {prompt} tokens")
    return require_new_tokens("max_length", length) - prompt


def _sampling(settings: Any) -> Sampling:
    temperature = settings.temperature
    return Sampling(
        bool(settings.do_sample), 1.0 if temperature is None else float(temperature), settings.top_k, settings.top_p
    )


def request_of(model: nn.Module, kwargs: dict[str, Any], settings: Any, prompt: int) -> Request:
    """What a call to `generate` with these merged settings asks for, for a prompt of so many tokens."""
    eos, pad = _ids(settings.eos_token_id), settings.pad_token_id
    stops = kwargs.get("stopping_criteria") or ()
    return Request(
        _new_tokens(model, kwargs, settings, prompt),
        _sampling(settings),
        eos,
        (eos[0] if eos else 0) if pad is None else int(pad),
        _generator(kwargs),
        kwargs.get("streamer"),
        tuple(stops) if isinstance(stops, list | tuple) else (stops,),
    )


def mask_for(kwargs: dict[str, Any], settings: Any, ids: Tensor) -> Tensor | None:
    """The attention mask: as given, or 0 at the padding token where the prompt holds one that does not end texts."""
    mask = kwargs.get("attention_mask")
    if mask is not None:
        assert isinstance(mask, Tensor)
        return mask
    pad, eos = settings.pad_token_id, _ids(settings.eos_token_id)
    if pad is None or int(pad) in eos or not bool((ids == int(pad)).any()):
        return None
    return (ids != int(pad)).long()


def padded_behind(mask: Tensor | None) -> bool:
    """Whether a text ends in padding: what it goes on with is then a matter of how transformers counts positions."""
    return mask is not None and mask.dim() == 2 and mask.shape[1] > 0 and not bool((mask[:, -1] != 0).all())
