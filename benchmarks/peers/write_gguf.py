"""A Llama of any shape with random weights as GGUF, for llama.cpp: python write_gguf.py OUT.gguf --type Q8_0.

Random weights serve for speed: the time of a token does not depend on their values.
"""

import argparse
from collections.abc import Iterator

import gguf
import numpy

TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
    "Q4_0": gguf.GGMLQuantizationType.Q4_0,
}


def matrices(asked: argparse.Namespace) -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, (out, in)) of every weight matrix."""
    d, ff, kv = asked.width, asked.hidden, asked.width // asked.heads * asked.kv_heads
    yield "token_embd", (asked.vocabulary, d)
    yield "output", (asked.vocabulary, d)
    for i in range(asked.layers):
        for name, shape in {
            "attn_q": (d, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, d),
            "ffn_gate": (ff, d), "ffn_up": (ff, d), "ffn_down": (d, ff),
        }.items():  # fmt: skip
            yield f"blk.{i}.{name}", shape


def write(asked: argparse.Namespace) -> None:
    writer = gguf.GGUFWriter(asked.out, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(asked.width)
    writer.add_block_count(asked.layers)
    writer.add_feed_forward_length(asked.hidden)
    writer.add_head_count(asked.heads)
    writer.add_head_count_kv(asked.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(asked.width // asked.heads)
    writer.add_vocab_size(asked.vocabulary)
    _vocabulary(writer, asked.vocabulary)
    random = numpy.random.default_rng(0)
    for name in ["output_norm", *(f"blk.{i}.{n}" for i in range(asked.layers) for n in ("attn_norm", "ffn_norm"))]:
        writer.add_tensor(f"{name}.weight", numpy.ones(asked.width, dtype=numpy.float32))
    kind = TYPES[asked.type]
    for name, shape in matrices(asked):
        weight = random.standard_normal(shape, dtype=numpy.float32) * numpy.float32(0.02)
        stored = weight if asked.type == "F32" else gguf.quants.quantize(weight, kind)
        writer.add_tensor(f"{name}.weight", stored, raw_dtype=None if asked.type == "F32" else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary(writer: "gguf.GGUFWriter", size: int) -> None:
    """Tokens that nobody reads: the loader wants a vocabulary of the right size."""
    special = ["<unk>", "<s>", "</s>"]
    names = special + [f"token{i}" for i in range(size - len(special))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([name.encode() for name in names])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([2, 3, 3] + [1] * (size - len(special)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--type", choices=TYPES, default="F32")
    for name, default in {
        "width": 2048, "hidden": 5632, "layers": 6, "heads": 32, "kv-heads": 4, "vocabulary": 8192,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    write(parser.parse_args())


if __name__ == "__main__":
    main()
