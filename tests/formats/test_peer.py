"""Both ways against compressed-tensors 0.14.0.1, in an environment of its own (`formats.peers`)."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from formats.golden_cases import LAYOUTS, PEER, PROGRAM, TYPES, given, scaled, weights
from formats.peers import needs, run
from rarefy.formats import bitmask, read
from rarefy.formats.container import prepare, write
from rarefy.formats.held import dense
from rarefy.formats.interchange import write_tensors
from rarefy.formats.packed import Packed, as_integers

pytestmark = needs(PEER)


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
            yield dtype, layout, given(layout, dtype), own


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
    path, back = tmp_path / "stored.safetensors", tmp_path / "back.safetensors"
    save_file(scaled(), path)
    run(PEER, PROGRAM, "dequantize", path, back)
    expected, found = load_file(back), read(path)
    assert found.keys() == expected.keys() and len(found) == 16
    for name, tensor in expected.items():
        ours = dense(found[name])
        assert ours.dtype == tensor.dtype and torch.equal(ours, tensor), name


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
