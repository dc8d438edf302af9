"""Run by `test_peer.py` with the Python of an environment that has compressed-tensors 0.14.0.1. Not a test.

python peer_program.py encode DENSE.safetensors OUT.safetensors
python peer_program.py decode SPARSE.safetensors OUT.safetensors
python peer_program.py model FOLDER OUT.safetensors
"""

import sys

from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.sparse_compressors import BitmaskCompressor
from safetensors.torch import load_file, save_file


def encode(source: str, target: str) -> None:
    save_file(BitmaskCompressor().compress(load_file(source)), target)


def decode(source: str, target: str) -> None:
    save_file({name: t.contiguous() for name, t in BitmaskCompressor().decompress(source)}, target)


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


if __name__ == "__main__":
    {"encode": encode, "decode": decode, "model": model}[sys.argv[1]](*sys.argv[2:])
