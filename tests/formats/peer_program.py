"""Run by `test_peer.py` with the Python of an environment that has compressed-tensors 0.14.0.1. Not a test.

python peer_program.py encode LAYOUT DENSE.safetensors OUT.safetensors
python peer_program.py decode LAYOUT SPARSE.safetensors|FOLDER OUT.safetensors
python peer_program.py dequantize STORED.safetensors OUT.safetensors
python peer_program.py model FOLDER OUT.safetensors
python peer_program.py all JOBS.json     several of these: starting a process takes far longer than any of them
"""

import json
import sys

from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.sparse_compressors import BitmaskCompressor, Sparse24BitMaskCompressor
from compressed_tensors.config import SparsityCompressionConfig
from compressed_tensors.quantization.lifecycle.forward import dequantize as peer_dequantize
from safetensors.torch import load_file, save_file


def compressor(layout: str):
    if layout == "sparse-bitmask":
        return BitmaskCompressor()
    return Sparse24BitMaskCompressor(config=SparsityCompressionConfig(format=layout, sparsity_structure="2:4"))


def encode(layout: str, source: str, target: str) -> None:
    save_file({n: t.contiguous() for n, t in compressor(layout).compress(load_file(source)).items()}, target)


def decode(layout: str, source: str, target: str) -> None:
    save_file({name: t.contiguous() for name, t in compressor(layout).decompress(source)}, target)


def dequantize(source: str, target: str) -> None:
    """What the stored integers of each `L.weight` stand for, by the scales beside them."""
    held = load_file(source)
    found = {}
    for name in (name for name in held if name.endswith(".weight")):
        zero = held.get(f"{name}_zero_point")
        found[name] = peer_dequantize(held[name], held[f"{name}_scale"], zero).contiguous()
    save_file(found, target)


def model(folder: str, target: str) -> None:
    """What the peer makes of a whole folder, guided by its config.json."""
    from transformers import AutoConfig, BertModel

    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    bert = BertModel(config)
    stored = load_file(f"{folder}/model.safetensors")
    bert.load_state_dict({n: t for n, t in stored.items() if n in bert.state_dict()}, strict=False)
    ModelCompressor.from_pretrained(folder).decompress(folder, bert)
    save_file({name: t.contiguous() for name, t in bert.state_dict().items()}, target)


def all_of(jobs: str) -> None:
    with open(jobs) as file:
        for command, *arguments in json.load(file):
            COMMANDS[command](*arguments)


COMMANDS = {"encode": encode, "decode": decode, "dequantize": dequantize, "model": model, "all": all_of}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
