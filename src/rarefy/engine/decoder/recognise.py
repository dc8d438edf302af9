"""From a model of Hugging Face to the structure that the runtime knows: Llama, Mistral, Qwen 2 and 3, OPT, GPT-2."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from rarefy.engine.decoder.foresights import foresights
from rarefy.engine.decoder.parts import (
    NotKnownError,
    activation_of,
    can_fold,
    floats,
    folded,
    hidden_of,
    merged_of,
    neurons_of,
    norm_of,
    shift_of,
    stacked_of,
    turn_of,
)
from rarefy.engine.decoder.selecting import NotKnownSelectorError, foreign_hooks, turns
from rarefy.engine.decoder.structure import Layer, Merged, Structure
from rarefy.ops import available
from rarefy.ops.decoder import Sizes
from rarefy.selectors import input_selector
from rarefy.selectors.attach import attached

_STATIC_ROTARY = ("default", "linear", "llama3", "yarn")  # cosines depend on the position only


def recognise(model: nn.Module) -> Structure:
    """The structure of a causal language model. Raises NotKnownError with the reason where there is none.

    What is read are the modules themselves: a layer that was replaced or hooked is not recognised, nor a model whose
    parameters are not all float32, or all bfloat16 where there are native kernels, on the CPU.
    """
    name = type(model).__name__
    reader = _READERS.get(name)
    if reader is None or not type(model).__module__.startswith("transformers."):
        raise NotKnownError(f"{name} is not one of {', '.join(_READERS)} of transformers")
    _require_plain(model)
    try:
        structure = reader(model)
        _require_all_selectors(model, structure)
        _require_all_turns(model, structure)
        return foresights(model, structure)
    except NotKnownSelectorError as error:
        raise NotKnownError(str(error)) from error
    except AttributeError as error:
        raise NotKnownError(f"{name} lacks what this version of the library expects ({error})") from error


def _require_plain(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if foreign_hooks(module) or "forward" in module.__dict__:
            raise NotKnownError(f"{name or type(model).__name__} has hooks or a forward of its own")
    kinds = {parameter.dtype for parameter in model.parameters()}
    native = kinds == {torch.bfloat16} and available()  # without packed weights each call would widen them all
    taken = torch.bfloat16 if native else torch.float32
    for name, parameter in model.named_parameters():
        if parameter.dtype != taken or parameter.device.type != "cpu":
            raise NotKnownError(f"{name} is {parameter.dtype} on {parameter.device}; call model.float().cpu() first")


def _require_all_selectors(model: nn.Module, structure: Structure) -> None:
    """None may hang where the runtime does not look for it: it would be ignored."""
    parts = {id(part): input_selector(part) for one in structure.merged() for part in one.parts}
    known = Counter(map(id, (*parts.values(), *(layer.hidden for layer in structure.layers))))
    for name, _, selector in attached(model):
        known[id(selector)] -= 1
        if known[id(selector)] < 0:
            raise NotKnownError(f"{name} has a selector where the runtime takes none")


def _require_all_turns(model: nn.Module, structure: Structure) -> None:
    """As above, for changes of the basis."""
    taken = [
        structure.turn or structure.head.before,
        *(t for one in structure.layers for t in (one.turn, one.mlp_turn)),
    ]
    hooks = [hook for module in model.modules() for hook in turns(module)]
    if len(hooks) != sum(one is not None for one in taken):
        raise NotKnownError("its residual stream changes its basis where the runtime does not look for it")


def _names(prefix: str, layers: Any) -> Iterator[tuple[str, Any]]:
    return ((f"{prefix}.{i}", layer) for i, layer in enumerate(layers))


def _llama(model: Any) -> Structure:
    """Llama, Mistral, Qwen 2 and 3: RMS norms, rotary positions, grouped queries, a gated layer."""
    config, body = model.config, model.model
    if body.rotary_emb.rope_type not in _STATIC_ROTARY:
        raise NotKnownError(f"rotary positions of type {body.rotary_emb.rope_type!r} depend on the length of the text")
    windows = _windows(config, type(model).__name__)
    named = zip(_names("model.layers", body.layers), windows, strict=True)
    layers = tuple(_llama_layer(name, layer, window) for (name, layer), window in named)
    depth = body.layers[0].self_attn.head_dim
    if 2 * body.rotary_emb.inv_freq.numel() != depth:
        raise NotKnownError(f"only a part of the {depth} features of a head is turned by its position")
    sizes = Sizes(config.hidden_size, config.num_attention_heads, config.num_key_value_heads, depth)
    head = merged_of("lm_head", model.lm_head)
    embedding = floats(body.embed_tokens.weight)
    last, turn = norm_of(body.norm), turn_of("model.norm", body.norm, "residual_adapter")
    if turn is not None and can_fold(head):
        head, last, turn = folded(head, last, turn)
    return Structure(
        type(model).__name__,
        sizes,
        embedding,
        None,
        0,
        body.rotary_emb,
        layers,
        last,
        head,
        config.max_position_embeddings,
        turn=turn,
    )


def _windows(config: Any, name: str) -> list[int | None]:
    """How many keys a token sees in each layer, None: all before it. Raises NotKnownError for other kinds of layers."""
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if name == "MistralForCausalLM":  # one mask for all layers
        return [window] * config.num_hidden_layers
    if kinds is None and window is not None and window < config.max_position_embeddings:
        # Older versions of the library (4.50) mask by any window that is set, whatever `use_sliding_window` says.
        raise NotKnownError("some layers attend to a sliding window, and its config does not say which")
    kinds = kinds or ["full_attention"] * config.num_hidden_layers
    if strange := set(kinds) - {"full_attention", "sliding_attention"}:
        raise NotKnownError(f"some layers attend by {min(strange)!r}")
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _llama_layer(name: str, layer: Any, window: int | None) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        norm_of(layer.input_layernorm),
        stacked_of(
            *((f"{name}.self_attn.{part}", getattr(attention, part)) for part in ("q_proj", "k_proj", "v_proj"))
        ),
        norm_of(attention.q_norm) if hasattr(attention, "q_norm") else None,
        norm_of(attention.k_norm) if hasattr(attention, "k_norm") else None,
        float(attention.scaling),
        merged_of(f"{name}.self_attn.o_proj", attention.o_proj),
        norm_of(layer.post_attention_layernorm),
        _gated(f"{name}.mlp", mlp),
        True,
        activation_of(mlp.act_fn),
        merged_of(f"{name}.mlp.down_proj", mlp.down_proj),
        **hidden_of(mlp.act_fn, mlp.down_proj.in_features),
        turn=turn_of(name, layer, "residual_adapter"),
        mlp_turn=turn_of(f"{name}.post_attention_layernorm", layer.post_attention_layernorm, "rotation"),
        window=window,
    )


def _gated(name: str, mlp: Any) -> tuple[Merged, ...]:
    """Gate and up: one layer, or two where neurons are selected between them."""
    parts = (f"{name}.gate_proj", mlp.gate_proj), (f"{name}.up_proj", mlp.up_proj)
    if neurons_of(mlp.act_fn) is None:
        made = stacked_of(*parts)
    else:
        made = merged_of(*parts[0], activation=activation_of(mlp.act_fn)), merged_of(*parts[1])
    return replace(made[0], shift=shift_of(mlp.act_fn)), *made[1:]


def _opt(model: Any) -> Structure:
    """OPT: learned positions two rows on, layer norms before each half (behind it in the 350M model), ReLU."""
    config, body = model.config, model.model.decoder
    layers = tuple(_opt_layer(name, layer) for name, layer in _names("model.decoder.layers", body.layers))
    heads = config.num_attention_heads
    return Structure(
        type(model).__name__,
        Sizes(config.hidden_size, heads, heads, config.hidden_size // heads),
        floats(body.embed_tokens.weight),
        floats(body.embed_positions.weight),
        body.embed_positions.offset,
        None,
        layers,
        None if body.final_layer_norm is None else norm_of(body.final_layer_norm),
        merged_of("lm_head", model.lm_head),
        config.max_position_embeddings,
        positions_from_mask=True,
        widen=_whole("model.decoder.project_in", body.project_in),
        narrow=_whole("model.decoder.project_out", body.project_out),
    )


def _whole(name: str, module: Any) -> Merged | None:
    """A linear layer that stays in torch, where there is one. Raises NotKnownError for one that selects inputs."""
    found = None if module is None else merged_of(name, module)
    if found is not None and found.selector is not None:
        raise NotKnownError(f"{name} has a selector where the runtime takes none")
    return found


def _opt_layer(name: str, layer: Any) -> Layer:
    attention = layer.self_attn
    activation = activation_of(layer.activation_fn)
    return Layer(
        norm_of(layer.self_attn_layer_norm),
        stacked_of(
            *((f"{name}.self_attn.{part}", getattr(attention, part)) for part in ("q_proj", "k_proj", "v_proj"))
        ),
        None,
        None,
        float(attention.scaling),
        merged_of(f"{name}.self_attn.out_proj", attention.out_proj),
        norm_of(layer.final_layer_norm),
        (replace(merged_of(f"{name}.fc1", layer.fc1, activation=activation), shift=shift_of(layer.activation_fn)),),
        False,
        "none",
        merged_of(f"{name}.fc2", layer.fc2),
        **hidden_of(layer.activation_fn, layer.fc2.in_features),
        norms_behind=not layer.do_layer_norm_before,
    )


def _gpt2(model: Any) -> Structure:
    """GPT-2: learned positions, transposed weights, queries, keys and values in one layer."""
    config, body = model.config, model.transformer
    if config.add_cross_attention:
        raise NotKnownError("GPT-2 with cross-attention")
    layers = tuple(_gpt2_layer(name, layer) for name, layer in _names("transformer.h", body.h))
    heads = config.num_attention_heads
    return Structure(
        type(model).__name__,
        Sizes(config.hidden_size, heads, heads, config.hidden_size // heads),
        floats(body.wte.weight),
        floats(body.wpe.weight),
        0,
        None,
        layers,
        norm_of(body.ln_f),
        merged_of("lm_head", model.lm_head),
        config.max_position_embeddings,
    )


def _gpt2_layer(name: str, layer: Any) -> Layer:
    activation = activation_of(layer.mlp.act)
    return Layer(
        norm_of(layer.ln_1),
        (merged_of(f"{name}.attn.c_attn", layer.attn.c_attn),),
        None,
        None,
        _gpt2_scaling(layer.attn),
        merged_of(f"{name}.attn.c_proj", layer.attn.c_proj),
        norm_of(layer.ln_2),
        (replace(merged_of(f"{name}.mlp.c_fc", layer.mlp.c_fc, activation=activation), shift=shift_of(layer.mlp.act)),),
        False,
        "none",
        merged_of(f"{name}.mlp.c_proj", layer.mlp.c_proj),
        **hidden_of(layer.mlp.act, layer.mlp.c_proj.weight.shape[0]),
    )


def _gpt2_scaling(attention: Any) -> float:
    """What its scores are multiplied by; older versions of the library (4.50) hold switches instead of the factor.

    Not every kind of attention of those versions heeds the switches, so only their usual values are known.
    """
    if hasattr(attention, "scaling"):
        return float(attention.scaling)
    if not attention.scale_attn_weights or attention.scale_attn_by_inverse_layer_idx:
        raise NotKnownError("GPT-2 with scores scaled otherwise than by the size of a head")
    return float(attention.head_dim**-0.5)


_READERS: dict[str, Callable[[Any], Structure]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _llama,
    "Qwen2ForCausalLM": _llama,
    "Qwen3ForCausalLM": _llama,
    "OPTForCausalLM": _opt,
    "GPT2LMHeadModel": _gpt2,
}
