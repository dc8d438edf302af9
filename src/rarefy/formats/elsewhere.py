"""Layouts that rarefy does not read, each with what to do about it."""

from collections.abc import Collection

from rarefy.core.errors import FileError

_DEQUANTIZE = (
    "load it with the program that made it, dequantize it there (transformers: dequantize=True), and save that"
)
_LAYOUTS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "marlin-24 (2:4 with packed integers in the order of one GPU kernel)",
        ("weight_packed", "scale_packed", "meta"),
        "it cannot be undone without that kernel's tables; get the model's dense or sparse-bitmask file, or load it "
        "in vLLM on a GPU",
    ),
    ("pack-quantized (compressed-tensors)", ("weight_packed", "weight_scale"), _DEQUANTIZE),
    ("nvfp4 or mxfp4", ("weight_packed", "weight_global_scale"), _DEQUANTIZE),
    ("GPTQ or AWQ", ("qweight", "scales"), _DEQUANTIZE),
    ("AQLM (sums of entries of codebooks)", ("codes", "codebooks", "scales"), _DEQUANTIZE),
    ("HQQ", ("W_q", "scale", "zero"), _DEQUANTIZE),
    ("HQQ", ("W_q", "meta"), _DEQUANTIZE),
    ("HQQ", ("W_q", "quant_config"), _DEQUANTIZE),
    ("bitsandbytes", ("weight.absmax", "weight.quant_map"), _DEQUANTIZE),
    ("bitsandbytes int8", ("SCB",), _DEQUANTIZE),
    ("float8 in blocks (DeepSeek)", ("weight_scale_inv",), _DEQUANTIZE),
    (
        "torch's semi-structured tensors (2:4)",
        ("weight.packed", "weight.meta"),
        "two orders of `meta` exist and the file does not say which: read both tensors and call "
        "rarefy.formats.semi_structured.from_pair(packed, meta, order=...)",
    ),
    (
        "a LoRA adapter",
        ("lora_A.weight", "lora_B.weight"),
        "it is dense, not sparse: merge it with peft (merge_and_unload) and save the model",
    ),
)


def refuse_foreign(names: Collection[str]) -> None:
    """Raises a FileError if the names show a layout that is not read here."""
    present = set(names)
    for layout, parts, todo in _LAYOUTS:
        for name in present:
            if name != parts[0] and not name.endswith("." + parts[0]):
                continue
            prefix = name.removesuffix(parts[0])
            if all(prefix + part in present for part in parts):
                raise FileError(f"tensor {name!r}: it is stored as {layout}, which rarefy does not read; {todo}")
