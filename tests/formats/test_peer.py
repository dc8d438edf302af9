"""Both ways against compressed-tensors 0.14.0.1, where RAREFY_PEER_PYTHON names a Python that has it."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rarefy.formats import bitmask, read
from rarefy.formats.container import prepare, write
from rarefy.formats.packed import Packed, as_integers

PEER = os.environ.get("RAREFY_PEER_PYTHON")
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn]

pytestmark = pytest.mark.skipif(not PEER, reason="RAREFY_PEER_PYTHON is not set")


def peer(*arguments: str | Path) -> None:
    run = subprocess.run(
        [str(PEER), str(Path(__file__).with_name("peer_program.py")), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert run.returncode == 0, run.stderr


def weights(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"m.a.weight": (64, 61), "m.b.weight": (33, 128), "m.c.weight": (5, 1), "m.d.bias": (7,)}
    if dtype != torch.float8_e4m3fn:
        shapes["m.conv.weight"] = (4, 3, 3, 3)
    made = {}
    for name, shape in shapes.items():
        value = torch.randint(1, 60, shape, generator=generator).float()
        made[name] = (value * (torch.rand(shape, generator=generator) < 0.4)).to(dtype)
    return made


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_integers(a), as_integers(b))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_we_read_what_the_peer_writes_and_write_the_same_bytes(tmp_path, dtype) -> None:
    made = weights(dtype)
    save_file(made, tmp_path / "dense.safetensors")
    peer("encode", tmp_path / "dense.safetensors", tmp_path / "peer.safetensors")
    found = read(tmp_path / "peer.safetensors")
    assert found.keys() == made.keys()
    for name, tensor in found.items():
        assert same(tensor.to_dense() if isinstance(tensor, Packed) else tensor, made[name]), name
    theirs = load_file(tmp_path / "peer.safetensors")
    for name, tensor in made.items():
        if name.endswith(".weight"):
            for part, ours in bitmask.pack(Packed.from_dense(tensor, by_row=False)).items():
                assert same(ours, theirs[f"{name.removesuffix('.weight')}.{part}"]), (name, part)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_peer_reads_what_we_write(tmp_path, dtype) -> None:
    made = {name: t for name, t in weights(dtype).items() if t.dim() <= 2}
    prepared = prepare(made)
    assert sum(t.encoding != "dense" for t in prepared.stored) == 2
    write(tmp_path / "ours.safetensors", prepared)
    peer("decode", tmp_path / "ours.safetensors", tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == made.keys()
    assert all(same(back[name], tensor) for name, tensor in made.items())


def test_the_peer_reads_a_whole_folder(tmp_path) -> None:
    from transformers import BertConfig, BertModel

    from rarefy.recipes.store import save

    torch.manual_seed(0)
    model = BertModel(
        BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, vocab_size=100)
    )
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            if parameter.dim() == 2:
                parameter[torch.rand(parameter.shape) < 0.7] = 0
    assert save(model, tmp_path / "out").pruned
    peer("model", tmp_path / "out", tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert all(same(back[name], tensor) for name, tensor in model.state_dict().items())
