"""A Llama-like language model as GGUF for llama.cpp, dense, its zeros exactly where they were."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import FileError, ModelError, RarefyError
from rarefy.formats.atomic import replace_file
from rarefy.formats.folder import read_contents, read_json
from rarefy.recipes.convert import Conversion, Options, conversion, require_widths_of_config, weights_of
from rarefy.recipes.convert_scaled import lay_out
from rarefy.recipes.store_activations import weights_alone

_VOCABULARY = 2**22  # values of a tokenizer.json: a word is one, a pair that is merged three
_NAMES = {  # of a layer: as Hugging Face calls its weights, as GGUF does
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_KINDS = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
"""model_type: architecture of GGUF. llama.cpp turns neighbouring entries of a head in `llama`, halves in `qwen2`."""
_SPLITS = {"llama": "llama-bpe", "mistral": "llama-bpe", "qwen2": "qwen2"}
"""How llama.cpp cuts text before byte pairs are merged."""


def to_gguf(source: Path, target: Path, options: Options) -> Conversion:
    """`model.gguf` with the weights in the type that they have (bfloat16 as float32: not every reader has it).

    Raises ModelError for another architecture or a variant of it that GGUF would compute otherwise.
    """
    try:
        import gguf
    except ImportError as error:
        raise FileError("convert: gguf is not installed; pip install gguf") from error
    try:
        return _written(gguf.GGUFWriter, source, target, options)
    except (RarefyError, OSError):
        raise
    except Exception as error:  # gguf raises whatever a strange config leads it to
        raise FileError(f"convert: {source}: config.json or tokenizer.json makes no sense ({error})") from error


def _written(make: Any, source: Path, target: Path, options: Options) -> Conversion:
    config = read_json(source / "config.json")
    kind = _checked_kind(config, source)
    contents = read_contents(source, mapped=True)
    require_widths_of_config(contents, source)
    laid = lay_out(contents.tensors, weights_of(contents, options), scales=False)
    most = max((len(tensor) for tensor in laid.tensors.values() if tensor.dim()), default=0)
    if not 0 < config["vocab_size"] <= most:
        raise FileError(
            f"convert: {source}: config.json says {config['vocab_size']} tokens; its weights have no so many"
        )
    notes = [*weights_alone(source), *_windows(config), *laid.notes]

    def write(aside: Path) -> None:
        writer = make(str(aside), kind)
        _describe(writer, config)
        notes.extend(_tokens(writer, source, config))
        for name, tensor in _renamed(laid.tensors, config, kind):
            writer.add_tensor(name, tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    replace_file(target / "model.gguf", write)
    return conversion("gguf-dense", target, ["model.gguf"], notes=tuple(notes))


def _checked_kind(config: Mapping[str, Any], source: Path) -> str:
    kind = _KINDS.get(str(config.get("model_type")))
    if kind is None:
        raise ModelError(
            f"convert: {source} is a {config.get('model_type')!r}; gguf-dense writes {', '.join(_KINDS)}. Write it "
            "with --to hf and use llama.cpp's convert_hf_to_gguf.py"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default" or config.get("mlp_bias"):
        raise ModelError(
            f"convert: {source} scales its positions or has biases that are not written here; write it with --to hf "
            "and use llama.cpp's convert_hf_to_gguf.py"
        )
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ModelError(
            f"convert: {source} computes {config['hidden_act']!r} between its feed-forward matrices, llama.cpp's "
            f"{kind} always silu; run it with rarefy or transformers"
        )
    return kind


def _windows(config: Mapping[str, Any]) -> list[str]:
    seen = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if not isinstance(seen, int) or seen >= config["max_position_embeddings"]:
        return []
    return [f"llama.cpp lets each token see all before it, the model the last {seen}: longer texts come out otherwise"]


def _describe(writer: Any, config: Mapping[str, Any]) -> None:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    head = config.get("head_dim") or width // heads
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(config.get("rope_theta") or rope.get("rope_theta") or 10000.0))
    writer.add_vocab_size(config["vocab_size"])


def _renamed(tensors: Mapping[str, Tensor], config: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Tensor]]:
    heads = config["num_attention_heads"]
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        plain = tensor.float() if tensor.dtype == torch.bfloat16 or tensor.dim() == 1 else tensor
        if module in _WHOLE:
            yield f"{_WHOLE[module]}.{last}", plain.contiguous()
            continue
        layers, _, rest = module.removeprefix("model.layers.").partition(".")
        if not layers.isdigit() or rest not in _NAMES or last not in ("weight", "bias"):
            raise ModelError(f"convert: {name!r} is no tensor that GGUF's {kind} has; write the model with --to hf")
        count = {"attn_q": heads, "attn_k": config.get("num_key_value_heads") or heads}.get(_NAMES[rest])
        turned = _neighbours(plain, count) if count and kind == "llama" else plain
        yield f"blk.{layers}.{_NAMES[rest]}.{last}", turned.contiguous()


def _neighbours(tensor: Tensor, heads: int) -> Tensor:
    """Rows of each head so that the two that turn together are neighbours; Hugging Face has them half a head apart."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def _tokens(writer: Any, source: Path, config: Mapping[str, Any]) -> list[str]:
    """The vocabulary of tokenizer.json (byte pairs), or names that stand for none; what to know about it."""
    size = config["vocab_size"]
    file = source / "tokenizer.json"
    model = read_json(file, values=_VOCABULARY).get("model", {}) if file.exists() else {}
    names, kinds = [f"<{i}>" for i in range(size)], [5] * size  # 5: unused
    byte_pairs = model.get("type") == "BPE" and not model.get("byte_fallback") and isinstance(model.get("vocab"), dict)
    if byte_pairs:
        added = {item["content"]: item["id"] for item in read_json(file, values=_VOCABULARY).get("added_tokens", ())}
        for text, i in [*model["vocab"].items(), *added.items()]:
            if not 0 <= i < size:
                raise FileError(f"convert: {file}: token {text!r} has the number {i} of {size}; get the file again")
            names[i], kinds[i] = text, 3 if text in added else 1
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges", ())]
        writer.add_token_merges(merges)
        writer.add_tokenizer_pre(_SPLITS[config["model_type"]])
    writer.add_tokenizer_model("gpt2" if byte_pairs else "no_vocab")
    if byte_pairs:
        writer.add_token_list(names)
        writer.add_token_types(kinds)
    for key, add in (("bos_token_id", writer.add_bos_token_id), ("eos_token_id", writer.add_eos_token_id)):
        if byte_pairs and type(config.get(key)) is int:
            add(config[key])
    if byte_pairs:
        return []
    return ["no byte-pair tokenizer.json: the file holds no vocabulary, so give llama.cpp token numbers"]
