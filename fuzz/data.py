"""Hostile data: arrays, texts, judgements, tokenizers, checkpoints of trainers - what people pass from hand to hand."""

import io
import json
import random
import struct
import zipfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import corpus
import models
import numpy
import torch
from bounds import bounded
from damage import NUMBERS, WORDS, damaged, lied, text, value
from hostile import written

import rarefy
from rarefy.cli.sources import batches_of
from rarefy.recipes.comparison.subject import encoder_of_folder
from rarefy.recipes.evaluations.retrieval import read_beir, read_pairs
from rarefy.recipes.folder_data import batches_for
from rarefy.recipes.text import read_passages
from rarefy.recipes.train_loops import transformers_callback

_FOLDER = corpus.folder()
_LINE = 250  # bytes that a line of text or a field takes, whatever it holds: an object, and a place in a list
_READ = 16  # times the file: a text of which one sign needs four bytes takes four for each, some copies at once
_TOKENIZER = 4 * 2**20  # a tokenizer of any size


def case(rng: random.Random) -> None:
    rng.choices((_array, _tensors, _passages, _judged, _tokenizer, _trainer), (6, 2, 2, 2, 3, 3))[0](rng)


def _put(name: str, data: bytes) -> Path:
    path = _FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)  # what was mapped keeps its pages
    path.write_bytes(data)
    return path


def _npy(header: str, data: bytes, version: int = 1) -> bytes:
    said = header.encode("latin1", "replace")
    length = struct.pack("<H" if version == 1 else "<I", len(said) % (2**16 if version == 1 else 2**32))
    return b"\x93NUMPY" + bytes((version, 0)) + length + said + data


_TYPES = ("<i8", "<i4", "|u1", "<f4", "<f2", "<U9", "|O", "|V8", "<c16", ">i8", "<M8[s]", "|b1", "", "|S0")
_HEADERS = (
    "{'descr': '<i8', 'fortran_order': False, 'shape': (" + "(" * 5000,
    "{'descr': [('a', '<i8'), ('b', '|O')], 'fortran_order': False, 'shape': (2,)}",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (2L, 3L)}",
    "__import__('antigravity')",
    "{'descr': '<i8', 'fortran_order': False, 'shape': ('" + "x" * 9000,
    "\"\"\"",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (True, 4)}",
)  # fmt: skip


def _array(rng: random.Random) -> None:
    """A .npy that is damaged, lies of its shape or type, has objects, or is an archive."""
    kind = rng.randrange(5)
    values = numpy.arange(rng.choice((0, 1, 24, 2000)), dtype=rng.choice(("<i8", "<i4", "<f4", "|u1"))).reshape(-1, 1)
    file = io.BytesIO()
    if kind == 0:
        numpy.save(file, values)
        data = damaged(file.getvalue(), rng)
    elif kind == 1:
        shape = [rng.choice((*NUMBERS, 2, 3, 8)) for _ in range(rng.randrange(1, 5))]
        said = {"descr": rng.choice(_TYPES), "fortran_order": rng.random() < 0.3, "shape": tuple(shape)}
        data = _npy(repr(said), values.tobytes(), rng.choice((1, 2, 3)))
    elif kind == 2:
        data = _npy(rng.choice(_HEADERS), bytes(99), rng.choice((1, 2, 3, 9)))
    elif kind == 3:
        numpy.save(file, numpy.array([[{"a": print}, antigravity_of(rng)]], dtype=object), allow_pickle=True)
        data = file.getvalue()
    else:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("arr_0.npy", bytes(10**5))
        data = damaged(file.getvalue(), rng) if rng.random() < 0.5 else file.getvalue()
    path = _put("ids.npy", data)
    bounded(lambda: batches_of(str(path)), len(data), more=_LINE * len(data))
    bounded(lambda: batches_for(_FOLDER, path, 4, 4), len(data))


def antigravity_of(rng: random.Random) -> Any:
    """Something whose pickle names a module."""
    return rng.choice((SimpleNamespace(a=1), json.JSONDecodeError("x", "y", 0), Path("x")))


def _tensors(rng: random.Random) -> None:
    whole = written({"a": torch.randn(6, 4), "b": torch.arange(6), "c": torch.zeros(6, 1).half()}, None)
    if rng.random() < 0.5:
        data = damaged(whole, rng)
    else:
        (length,) = struct.unpack("<Q", whole[:8])
        said = text(lied(json.loads(whole[8 : 8 + length]), rng), rng)
        data = struct.pack("<Q", len(said)) + said + whole[8 + length :]
    path = _put("inputs.safetensors", data)
    bounded(lambda: batches_of(str(path)), len(data))


def _lines(rng: random.Random) -> bytes:
    """Text of any kind: short lines, long ones, other encodings, a sign that makes all others wide."""
    part = rng.choice(
        (b"ab cd\n", b"\n", "\u00e9\u4e2d\n".encode(), b"x" * 999, b"\0", b"a,b,1\n", b'"', b"\r", b"\x85")
    )
    data = part * rng.choice((1, 3, 1000, 20_000))
    if rng.random() < 0.3:
        data += "\U0001f600".encode()
    return damaged(data, rng) if rng.random() < 0.5 else data


def _passages(rng: random.Random) -> None:
    data = _lines(rng)
    path = _put("texts.txt", data)
    if rng.random() < 0.03:
        path.unlink()
        path.mkdir()
        bounded(lambda: read_passages(path), 0)
        path.rmdir()
        return
    bounded(lambda: read_passages(path), _READ // 2 * len(data), more=_LINE * len(data))
    bounded(lambda: read_pairs(path), _READ // 2 * len(data), more=4 * _LINE * len(data))


_ROW = {"_id": "d0", "title": "t", "text": "some words"}


def _judged(rng: random.Random) -> None:
    """A folder of BEIR one of whose three files is hostile."""
    files = {
        "corpus.jsonl": b"".join(json.dumps({**_ROW, "_id": f"d{i}"}).encode() + b"\n" for i in range(9)),
        "queries.jsonl": b"".join(json.dumps({"_id": f"q{i}", "text": "what"}).encode() + b"\n" for i in range(3)),
        "qrels/test.tsv": b"query-id\tcorpus-id\tscore\n" + b"".join(b"q%d\td%d\t1\n" % (i, i) for i in range(3)),
    }
    name = rng.choice(list(files))
    if rng.random() < 0.5:
        files[name] = damaged(files[name], rng)
    elif name.endswith(".jsonl"):
        rows = [text(lied(_ROW, rng), rng), json.dumps({**_ROW, rng.choice(list(_ROW)): value(rng)}).encode()]
        files[name] += b"\n".join(rows)
    else:
        files[name] += rng.choice(
            (b"q1\td1\tnan\n", b"q1\td1\tinf\n", b"q1\n", b'"\n', b"q1\td1\t1e999\n", _lines(rng))
        )
    for file, data in files.items():
        _put(f"{(_FOLDER / 'beir').name}-{Path(file).name}", data)
        place = _FOLDER / "beir" / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    size = sum(map(len, files.values()))
    bounded(lambda: read_beir(_FOLDER / "beir", limit=rng.choice((None, 4))), _READ // 2 * size, more=_LINE * size)


def _tokenizer(rng: random.Random) -> None:
    """The files of a tokenizer, with code that they might name beside them."""
    place = _FOLDER / "tokens"
    place.mkdir(exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    config: Any = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 32}
    said: Any = models.TOKENIZER
    kind = rng.randrange(4)
    if kind == 0:
        config = lied(config, rng)
    elif kind == 1:
        config |= {"auto_map": {"AutoTokenizer": ["modeling_x.Model", "antigravity--modeling_x.Model"]}}
        config["tokenizer_class"] = rng.choice((*WORDS, "BertTokenizer", "LlamaTokenizer", "GPT2Tokenizer", "Model"))
    else:
        said = lied(said, rng)
    files = {
        "tokenizer.json": damaged(json.dumps(said).encode(), rng) if rng.random() < 0.2 else text(said, rng),
        "tokenizer_config.json": text(config, rng),
        "config.json": models.folders()["llama"]["config.json"],
        "modeling_x.py": b"import antigravity\nclass Model: pass\n",
    }
    if rng.random() < 0.2:
        extra = rng.choice(
            ("added_tokens.json", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja")
        )
        files[extra] = text({"a": value(rng)}, rng) if extra.endswith(".json") else _lines(rng)
    for name, data in files.items():
        (place / name).write_bytes(data)
    size = sum(map(len, files.values()))
    encode = bounded(lambda: encoder_of_folder(place, 50), _READ * size, more=_TOKENIZER)
    if encode is not None:
        bounded(lambda: encode("a b abc"), 0, more=_TOKENIZER)


@cache
def _checkpoint() -> bytes:
    model, optimizer = _model()
    trainer = rarefy.sparse_training(model, optimizer, "rigl", sparsity=0.5, total_steps=20, seed=0)
    for _ in range(4):
        model(torch.randn(4, 8)).square().mean().backward()
        trainer.step()
        optimizer.zero_grad()
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    return file.getvalue()


def _model() -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def _changed(node: Any, rng: random.Random) -> Any:
    """A state in which one thing at any depth is another."""
    if isinstance(node, dict | list) and node and rng.random() < 0.9:
        copy = dict(node) if isinstance(node, dict) else dict(enumerate(node))
        key = rng.choice(list(copy))
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = _changed(copy[key], rng)
        return copy if isinstance(node, dict) else list(copy.values())
    return rng.choice((value(rng), torch.zeros(3), torch.zeros(0, 8, dtype=torch.uint8), torch.ones(2, 2**10).bool()))


def _trainer(rng: random.Random) -> None:
    """A checkpoint that the callback for transformers' Trainer goes on from."""
    data = _checkpoint()
    if rng.random() < 0.5:
        data = damaged(data, rng)
    else:
        file = io.BytesIO()
        torch.save(_changed(torch.load(io.BytesIO(data), weights_only=True), rng), file)
        data = file.getvalue()
        if rng.random() < 0.2:
            data = _deflated(data)
    _put("checkpoint-4/rarefy_trainer.pt", data)
    model, optimizer = _model()
    callback = transformers_callback("rigl", sparsity=0.5, total_steps=20, seed=0)
    args, state = SimpleNamespace(output_dir=str(_FOLDER)), SimpleNamespace(global_step=4, max_steps=20)

    def resume() -> Any:
        callback.on_train_begin(args, state, None, model=model, optimizer=optimizer)
        return callback.trainer

    trainer = bounded(resume, len(data))
    if trainer is not None:
        trainer.detach()


def _deflated(data: bytes) -> bytes:
    """The same archive, its records packed, and one of zeros that would be large."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            big = info.filename.endswith("/0")
            new.writestr(info.filename, bytes(16 * 2**20) if big else old.read(info))
    return file.getvalue()
