"""Both ways against compressed-tensors 0.14.0.1, in an environment of its own (`formats.peers`)."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from formats.peers import needs, run
from rarefy.formats import bitmask, read
from rarefy.formats.container import prepare, write
from rarefy.formats.held import dense
from rarefy.formats.interchange import write_tensors
from rarefy.formats.packed import Packed, as_integers

PEER = "compressed-tensors"
PROGRAM = Path(__file__).with_name("peer_program.py")
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn]
LAYOUTS = ["sparse-bitmask", "sparse-24-bitmask"]

pytestmark = needs(PEER)


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


def two_of_four(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Positive values: the peer ranks float8 by its bytes as signed integers, and -128 as the least integer."""
    generator = torch.Generator().manual_seed(1)
    made = {}
    for name, (rows, columns) in {"m.a.weight": (64, 60), "m.b.weight": (33, 128)}.items():
        order = torch.rand(rows, columns // 4, 4, generator=generator).argsort(-1)
        value = torch.randint(1, 60, (rows, columns), generator=generator)
        made[name] = (value * (order < 2).reshape(rows, columns)).to(dtype)
    return made


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_integers(a), as_integers(b))


def all_same(found: dict, expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(same(dense(found[name]), t) for name, t in expected.items())


def peer(folder: Path, jobs: list[tuple[str | Path, ...]]) -> None:
    """All in one process of the peer."""
    (folder / "jobs.json").write_text(json.dumps([[str(part) for part in job] for job in jobs]))
    run(PEER, PROGRAM, "all", folder / "jobs.json")


def cases(folder: Path):
    """(type, layout, tensors, a folder of its own)"""
    for dtype in TYPES:
        for layout in LAYOUTS:
            own = folder / f"{str(dtype).removeprefix('torch.')}-{layout}"
            own.mkdir(exist_ok=True)
            yield dtype, layout, weights(dtype) if layout == "sparse-bitmask" else two_of_four(dtype), own


def test_we_read_what_the_peer_writes_and_write_the_same_bytes(tmp_path) -> None:
    jobs = []
    for _, layout, made, own in cases(tmp_path):
        save_file(made, own / "dense.safetensors")
        jobs.append(("encode", layout, own / "dense.safetensors", own / "peer.safetensors"))
    peer(tmp_path, jobs)
    for _, layout, made, own in cases(tmp_path):
        found = read(own / "peer.safetensors")
        assert all_same(found, made), own.name
        matrices = {name: tensor for name, tensor in made.items() if tensor.dim() == 2}
        assert all(isinstance(found[name], Packed) for name in matrices)
        theirs = load_file(own / "peer.safetensors")
        write_tensors(own, matrices, layout=layout, targets=matrices)
        for name, ours in load_file(own / "model.safetensors").items():
            assert same(ours, theirs[name]), (own.name, name)
        if layout == "sparse-bitmask" and "m.conv.weight" in made:
            for part, ours in bitmask.pack(Packed.from_dense(made["m.conv.weight"], by_row=False)).items():
                assert same(ours, theirs[f"m.conv.{part}"]), part


def test_the_peer_reads_what_we_write_in_one_file_or_in_shards(tmp_path) -> None:
    jobs, expected = [], {}
    for _, layout, made, own in cases(tmp_path):
        for kind, most in (("one", 10**9), ("many", 3000)):
            written = write_tensors(own / kind, made, layout=layout, shard_bytes=most)
            assert written.sparse.keys() == {"m.a.weight", "m.b.weight"}
            assert (len(written.files) > 1) == (kind == "many")
            assert all_same(read(own / kind), made)
            expected[own / f"{kind}.safetensors"] = made
            jobs.append(("decode", layout, own / kind, own / f"{kind}.safetensors"))
    for dtype in TYPES:
        made = {name: t for name, t in weights(dtype).items() if t.dim() <= 2}
        path = tmp_path / f"{str(dtype).removeprefix('torch.')}.safetensors"
        prepared = prepare(made)
        assert sum(t.encoding != "dense" for t in prepared.stored) == 2
        write(path, prepared)
        expected[path.with_suffix(".back")] = made
        jobs.append(("decode", "sparse-bitmask", path, path.with_suffix(".back")))
    peer(tmp_path, jobs)
    for path, made in expected.items():
        assert all_same(load_file(path), made), path


def test_scales_mean_what_they_mean_to_the_peer(tmp_path) -> None:
    generator = torch.Generator().manual_seed(2)
    jobs = []
    for dtype in (torch.int8, torch.float8_e4m3fn):
        for scale_type in (torch.float32, torch.bfloat16):
            stored = {}
            for name, shape in {"tensor": (1,), "row": (33, 1), "group": (33, 8), "block": (11, 4)}.items():
                stored[f"{name}.weight"] = weights(dtype)["m.b.weight"]
                stored[f"{name}.weight_scale"] = torch.rand(shape, generator=generator).add(0.01).to(scale_type)
            if dtype == torch.int8:
                stored["group.weight_zero_point"] = torch.randint(-5, 5, (33, 8), generator=generator).to(torch.int8)
            path = tmp_path / f"{len(jobs)}.safetensors"
            save_file(stored, path)
            jobs.append(("dequantize", path, path.with_suffix(".back")))
    peer(tmp_path, jobs)
    for _, path, back in jobs:
        expected, found = load_file(back), read(path)
        assert found.keys() == expected.keys() == {f"{kind}.weight" for kind in ("tensor", "row", "group", "block")}
        for name, tensor in expected.items():
            ours = dense(found[name])
            assert ours.dtype == tensor.dtype and torch.equal(ours, tensor), (path.name, name)


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
    run(PEER, PROGRAM, "model", tmp_path / "out", tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert all(same(back[name], tensor) for name, tensor in model.state_dict().items())
