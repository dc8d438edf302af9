"""From a model of Hugging Face to the structure that the runtime knows: Llama, Mistral, Qwen 2 and 3, OPT, GPT-2."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.engine.decoder.structure import Layer, Merged, Structure
from rarefy.ops.decoder import Norm, Sizes

_ACTIVATIONS = {
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "ReLU": "relu",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
}
_STATIC_ROTARY = ("default", "linear", "llama3", "yarn")  # cosines depend on the position only


class NotKnownError(Exception):
    """Why a model is not one that the runtime knows."""


def recognise(model: nn.Module) -> Structure:
    """The structure of a causal language model. Raises NotKnownError with the reason where there is none.

    What is read are the modules themselves: a layer that was replaced or hooked is not recognised, nor one whose
    parameters are not float32 on the CPU.
    """
    name = type(model).__name__
    reader = _READERS.get(name)
    if reader is None or not type(model).__module__.startswith("transformers."):
        raise NotKnownError(f"{name} is not one of {', '.join(_READERS)} of transformers")
    _require_plain(model)
    try:
        return reader(model)
    except AttributeError as error:
        raise NotKnownError(f"{name} lacks what this version of the library expects ({error})") from error


def _require_plain(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
            raise NotKnownError(f"{name or type(model).__name__} has hooks or a forward of its own")
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            raise NotKnownError(f"{name} is {parameter.dtype} on {parameter.device}; call model.float().cpu() first")


def _floats(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()


def _norm(module: Any) -> Norm:
    if type(module) is nn.LayerNorm and module.weight is not None:
        bias = None if module.bias is None else _floats(module.bias)
        return Norm(False, _floats(module.weight), bias, module.eps)
    if type(module).__name__.endswith("RMSNorm") and isinstance(module.weight, Tensor):
        return Norm(True, _floats(module.weight), None, float(module.variance_epsilon))
    raise NotKnownError(f"{type(module).__name__} is not a norm with a weight")


def _merged(name: str, *parts: Any, activation: str = "none") -> Merged:
    for part in parts:
        if type(part) is not nn.Linear and type(part).__name__ != "Conv1D":
            raise NotKnownError(f"{name} is a {type(part).__name__}, not a plain linear layer")
        if not isinstance(part._parameters.get("weight"), nn.Parameter):
            raise NotKnownError(f"{name}: its weight is computed from others")
    return Merged(name, tuple(parts), activation)


def _activation(module: Any) -> str:
    found = _ACTIVATIONS.get(type(module).__name__)
    if found is None:
        raise NotKnownError(f"the activation {type(module).__name__} has no kernel")
    return found


def _names(prefix: str, layers: Any) -> Iterator[tuple[str, Any]]:
    return ((f"{prefix}.{i}", layer) for i, layer in enumerate(layers))


def _llama(model: Any) -> Structure:
    """Llama, Mistral, Qwen 2 and 3: RMS norms, rotary positions, grouped queries, a gated layer."""
    config, body = model.config, model.model
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or (type(model).__name__ == "MistralForCausalLM" and config.sliding_window):
        raise NotKnownError("some layers attend to a sliding window")
    if body.rotary_emb.rope_type not in _STATIC_ROTARY:
        raise NotKnownError(f"rotary positions of type {body.rotary_emb.rope_type!r} depend on the length of the text")
    layers = tuple(_llama_layer(name, layer) for name, layer in _names("model.layers", body.layers))
    depth = body.layers[0].self_attn.head_dim
    if 2 * body.rotary_emb.inv_freq.numel() != depth:
        raise NotKnownError(f"only a part of the {depth} features of a head is turned by its position")
    sizes = Sizes(config.hidden_size, config.num_attention_heads, config.num_key_value_heads, depth)
    head = _merged("lm_head", model.lm_head)
    embedding = _floats(body.embed_tokens.weight)
    return Structure(
        type(model).__name__,
        sizes,
        embedding,
        None,
        0,
        body.rotary_emb,
        layers,
        _norm(body.norm),
        head,
        config.max_position_embeddings,
    )


def _llama_layer(name: str, layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        _norm(layer.input_layernorm),
        _merged(f"{name}.self_attn.q_proj", attention.q_proj, attention.k_proj, attention.v_proj),
        _norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        _norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        float(attention.scaling),
        _merged(f"{name}.self_attn.o_proj", attention.o_proj),
        _norm(layer.post_attention_layernorm),
        _merged(f"{name}.mlp.gate_proj", mlp.gate_proj, mlp.up_proj),
        True,
        _activation(mlp.act_fn),
        _merged(f"{name}.mlp.down_proj", mlp.down_proj),
    )


def _opt(model: Any) -> Structure:
    """OPT: learned positions two rows on, layer norms before each half, ReLU."""
    config, body = model.config, model.model.decoder
    if body.project_in is not None or body.project_out is not None or not config.do_layer_norm_before:
        raise NotKnownError("OPT with projected embeddings or with norms behind the layers (the 350M model)")
    layers = tuple(_opt_layer(name, layer) for name, layer in _names("model.decoder.layers", body.layers))
    heads = config.num_attention_heads
    return Structure(
        type(model).__name__,
        Sizes(config.hidden_size, heads, heads, config.hidden_size // heads),
        _floats(body.embed_tokens.weight),
        _floats(body.embed_positions.weight),
        body.embed_positions.offset,
        None,
        layers,
        None if body.final_layer_norm is None else _norm(body.final_layer_norm),
        _merged("lm_head", model.lm_head),
        config.max_position_embeddings,
        positions_from_mask=True,
    )


def _opt_layer(name: str, layer: Any) -> Layer:
    attention = layer.self_attn
    activation = _activation(layer.activation_fn)
    return Layer(
        _norm(layer.self_attn_layer_norm),
        _merged(f"{name}.self_attn.q_proj", attention.q_proj, attention.k_proj, attention.v_proj),
        None,
        None,
        float(attention.scaling),
        _merged(f"{name}.self_attn.out_proj", attention.out_proj),
        _norm(layer.final_layer_norm),
        _merged(f"{name}.fc1", layer.fc1, activation=activation),
        False,
        "none",
        _merged(f"{name}.fc2", layer.fc2),
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
        _floats(body.wte.weight),
        _floats(body.wpe.weight),
        0,
        None,
        layers,
        _norm(body.ln_f),
        _merged("lm_head", model.lm_head),
        config.max_position_embeddings,
    )


def _gpt2_layer(name: str, layer: Any) -> Layer:
    activation = _activation(layer.mlp.act)
    return Layer(
        _norm(layer.ln_1),
        _merged(f"{name}.attn.c_attn", layer.attn.c_attn),
        None,
        None,
        float(layer.attn.scaling),
        _merged(f"{name}.attn.c_proj", layer.attn.c_proj),
        _norm(layer.ln_2),
        _merged(f"{name}.mlp.c_fc", layer.mlp.c_fc, activation=activation),
        False,
        "none",
        _merged(f"{name}.mlp.c_proj", layer.mlp.c_proj),
    )


_READERS: dict[str, Callable[[Any], Structure]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _llama,
    "Qwen2ForCausalLM": _llama,
    "Qwen3ForCausalLM": _llama,
    "OPTForCausalLM": _opt,
    "GPT2LMHeadModel": _gpt2,
}
