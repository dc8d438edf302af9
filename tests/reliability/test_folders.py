"""Folders and data of others that lie: an error of ours, nothing run, nothing copied from elsewhere, no huge sizes."""

import io
import json
import os
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from torch import nn

import rarefy
from rarefy.cli.sources import batches_of
from rarefy.core.errors import DataError, FileError, ModelError
from rarefy.formats.header import read_header
from rarefy.formats.safe import read_stored
from rarefy.formats.shards import open_shards
from rarefy.formats.torch_file import read_state
from rarefy.recipes.convert import convert
from rarefy.recipes.evaluations.retrieval import read_beir, read_pairs
from rarefy.recipes.folder_data import batches_for
from rarefy.recipes.skeleton import skeleton
from rarefy.recipes.store_carry import carry_companions
from rarefy.recipes.tokenizer import read_tokenizer
from rarefy.recipes.train_loops import transformers_callback


@pytest.fixture
def bert(tmp_path) -> Path:
    """A tiny model, its weights stored dense as transformers does."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=30,
        max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).eval().save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def change(folder: Path, **said: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | said))


def opened(folder: Path) -> object:
    shards = open_shards(folder)
    assert shards is not None
    return skeleton(folder, shards, torch.float32)


@pytest.mark.parametrize("door", [opened, rarefy.load])
@pytest.mark.parametrize(
    "said",
    [
        {"hidden_size": 2**40},
        {"intermediate_size": 10**6},
        {"max_position_embeddings": 2**30},
        {"vocab_size": 2**33},
        {"hidden_size": [0]},
        {"hidden_act": "antigravity"},
        {"num_hidden_layers": 3},
    ],
)
def test_a_config_of_other_sizes_is_refused_before_they_are_made(bert, door, said) -> None:
    change(bert, **said)
    with pytest.raises(FileError, match=str(bert)):
        door(bert)


def test_a_folder_as_it_was_written_opens(bert) -> None:
    assert opened(bert).parameters == sum(p.numel() for p in rarefy.load(bert).parameters())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_never_ends_is_not_read(bert, name, kind) -> None:
    (bert / name).unlink()
    os.mkfifo(bert / name) if kind == "pipe" else (bert / name).symlink_to("/dev/zero")
    with pytest.raises(FileError, match="it is no ordinary file"):
        rarefy.load(bert)


def test_a_header_that_is_no_json_is_an_error_of_ours(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    for text in (b"{\xff", b"[]", b'{"a":', b'{"__metadata__": 3}', b'{"__metadata__": {"a": 3}}', b"[" * 100_000):
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(FileError, match=r"model\.safetensors: its header is"):
            read_header(path)


def test_a_generation_config_that_transformers_refuses_is_an_error_of_ours(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 30, "n_positions": 32}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    rarefy.save(model, tmp_path)
    assert rarefy.load(tmp_path).can_generate()
    (tmp_path / "generation_config.json").write_text(json.dumps({"max_new_tokens": [[]], "num_beams": {}}))
    with pytest.raises(FileError, match=r"generation_config\.json"):
        rarefy.load(tmp_path)


def test_companions_that_lead_elsewhere_are_not_copied(tmp_path) -> None:
    source, target, secret = tmp_path / "model", tmp_path / "out", tmp_path / "secret"
    source.mkdir()
    secret.write_text("of the user")
    (source / "LICENSE").write_text("free")
    (source / "NOTICE").symlink_to("LICENSE")
    assert carry_companions(source, target) == ["LICENSE", "NOTICE"]
    (source / "README.md").symlink_to(secret)
    with pytest.raises(FileError, match=r"README\.md is a link to a file elsewhere"):
        carry_companions(source, target)
    (source / "README.md").unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    (source / "1_Pooling").symlink_to(tmp_path / "other")
    with pytest.raises(FileError, match=r"1_Pooling.* is a link to a file elsewhere"):
        carry_companions(source, target)
    assert not (target / "README.md").exists()


def test_companions_in_the_cache_of_hugging_face_are_copied(tmp_path) -> None:
    blobs, source = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "123"
    blobs.mkdir(parents=True)
    source.mkdir(parents=True)
    (blobs / "abc").write_text("free")
    (source / "LICENSE").symlink_to("../../blobs/abc")
    assert carry_companions(source, tmp_path / "out") == ["LICENSE"]
    assert (tmp_path / "out" / "LICENSE").read_text() == "free" and not (tmp_path / "out" / "LICENSE").is_symlink()


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": "{"},
        {"tokenizer.json": json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": 3, "merges": []}})},
        {"tokenizer_config.json": "[]"},
    ],
)
def test_a_tokenizer_of_nonsense_is_an_error_of_ours(bert, files) -> None:
    for name, text in files.items():
        (bert / name).write_text(text)
    with pytest.raises(FileError, match="the tokenizer cannot be loaded"):
        read_tokenizer(bert)


def test_code_that_a_tokenizer_names_is_not_run(bert) -> None:
    (bert / "modeling_x.py").write_text(f"open({str(bert / 'was-here')!r}, 'w')")
    said = {"auto_map": {"AutoTokenizer": ["modeling_x.T", "modeling_x.T"]}, "tokenizer_class": "T"}
    (bert / "tokenizer_config.json").write_text(json.dumps(said))
    with suppress(FileError):
        read_tokenizer(bert)
    assert not (bert / "was-here").exists()


def test_arrays_without_entries_or_with_too_many_are_errors_of_ours(tmp_path) -> None:
    path = tmp_path / "ids.npy"
    for array in (numpy.zeros((2**20, 0)), numpy.zeros((0, 3)), numpy.array([[{}]], dtype=object)):
        numpy.save(path, array, allow_pickle=True)
        with pytest.raises(DataError, match=r"ids\.npy"):
            batches_of(str(path))
        with pytest.raises(DataError, match=r"ids\.npy"):
            batches_for(tmp_path, path, 4, 4)
    numpy.save(path, numpy.arange(40).reshape(20, 2))
    assert [len(batch) for batch in batches_of(str(path))] == [16, 4]
    assert len(batches_for(tmp_path, path, 3, 4)) == 3


def test_texts_and_judgements_of_nonsense_are_errors_of_ours(tmp_path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("x" * 140_000)
    with pytest.raises(DataError, match=r"pairs\.csv: is no csv"):
        read_pairs(pairs)
    (tmp_path / "qrels").mkdir()
    rows = {"corpus.jsonl": '{"_id": "d", "text": "a"}\n', "queries.jsonl": '{"_id": "q", "text": "b"}\n'}
    whole = rows | {"qrels/test.tsv": "query\tdocument\tgrade\nq\td\t1\n"}
    for name, text in whole.items():
        (tmp_path / name).write_text(text)
    assert read_beir(tmp_path).documents == ("a",)
    for name, text in (
        ("corpus.jsonl", '{"_id": ["d"], "text": "a"}\n'),
        ("corpus.jsonl", "[" * 100_000),
        ("qrels/test.tsv", "x" * 140_000),
        ("qrels/test.tsv", "query\tdocument\tgrade\nq\td\tmuch\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=name):
            read_beir(tmp_path, limit=1)
        (tmp_path / name).write_text(whole[name])
    (tmp_path / "qrels/test.tsv").write_bytes(b"\xff\xfe\n\xff")
    with pytest.raises(DataError, match=r"test\.tsv"):
        read_beir(tmp_path)


# --- checkpoints of trainers --------------------------------------------------------------------------------------


def a_trainer(state: object = None) -> object:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return rarefy.sparse_training(model, optimizer, "rigl", sparsity=0.5, total_steps=9, seed=0, state=state)


def resumed(folder: Path) -> None:
    callback = transformers_callback("rigl", sparsity=0.5, total_steps=9, seed=0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    args, state = SimpleNamespace(output_dir=str(folder)), SimpleNamespace(global_step=4, max_steps=9)
    callback.on_train_begin(args, state, None, model=model, optimizer=optimizer)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


def test_a_checkpoint_is_read_without_unpickling(tmp_path) -> None:
    path = tmp_path / "checkpoint-4" / "rarefy_trainer.pt"
    path.parent.mkdir()
    state = a_trainer().state_dict()
    state["memory"] = {"a": torch.arange(3), "b": [1.5, (None, True)], "c": "text"}
    torch.save(state, path)
    found, expected = read_state(path), torch.load(path, weights_only=True)
    assert repr(found) == repr(expected)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FileError, match=r"rarefy_trainer\.pt: not a whole archive"):
        resumed(tmp_path)
    for held, why in ((Evil(), "neither plain nor a tensor"), ({"a": [Evil()]}, "neither plain nor a tensor")):
        torch.save(held, path)
        with pytest.raises(FileError, match=why):
            resumed(tmp_path)
    twice: list[object] = []
    for _ in range(60):  # two to the power of sixty lists, if each were made anew
        twice = [twice, twice]
    torch.save({"a": twice}, path)
    found = read_state(path)["a"]
    assert found[0] is found[1] and found[0][0] is found[0][1]


def test_a_packed_archive_is_not_unpacked(tmp_path) -> None:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(2**16)}, file)
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with pytest.raises(FileError, match="compressed"):
        read_state(path)


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1},
        {"step": "x"},
        {"generator": torch.zeros(3)},
        {"memory": 3},
        {"weights": {}},
        {"young": {"0": 3}},
        {"young": {"x": [torch.zeros(1), torch.zeros(1)]}},
        {"packed": 5},
        {"identity": 5},
        {"identity": {"version": torch.zeros(2)}},
        {"mask": torch.zeros(16, 9, dtype=torch.uint8)},
        {"master": torch.zeros(3)},
        {"density": "x"},
        {"extra": {"a": 3}},
        {"explored": torch.zeros(2)},
    ],
)
def test_a_state_that_is_damaged_changes_nothing(change) -> None:
    trainer = a_trainer()
    state = trainer.state_dict()
    before = repr(state)
    inside = change.keys() & state["weights"]["0"].keys()
    if inside:
        weights = state["weights"] | {"0": state["weights"]["0"] | change}
        damaged = state | {"weights": weights}
    else:
        damaged = state | change
    with pytest.raises(ModelError, match="load_state_dict"):
        trainer.load_state_dict(damaged)
    assert repr(trainer.state_dict()) == before
    trainer.load_state_dict(state)


def test_inputs_of_a_damaged_file_are_errors_of_ours(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + bytes(9))
    with pytest.raises(DataError, match=r"--data: .*x\.safetensors: it announces a header"):
        batches_of(str(path))
    text = b'{"a":{"dtype":"F32","shape":[1099511627776,0],"data_offsets":[0,0]}}'
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    assert read_stored(path)[1]["a"].shape == (2**40, 0)
    with pytest.raises(DataError, match="at least one"):
        batches_of(str(path))


@pytest.mark.parametrize(
    "said", [{"vocab_size": 2**40}, {"num_attention_heads": 2**31}, {"rope_scaling": 3}, {"vocab_size": None}]
)
def test_a_config_that_gguf_cannot_write_is_an_error_of_ours(tmp_path, said) -> None:
    pytest.importorskip("gguf")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=30,
        max_position_embeddings=32,
    )  # fmt: skip
    rarefy.save(transformers.LlamaForCausalLM(config), tmp_path / "llama")
    assert convert(tmp_path / "llama", tmp_path / "out", "gguf-dense").files == ("model.gguf",)
    change(tmp_path / "llama", **{"rope_parameters": None, **said})
    with pytest.raises(FileError, match="convert: "):
        convert(tmp_path / "llama", tmp_path / "out", "gguf-dense")
