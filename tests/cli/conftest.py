"""A small random text model in a folder, with texts, made without network."""

import random

import pytest
import torch
from typer.testing import CliRunner

WORDS = "the a cat dog runs sleeps on under table house big small red blue and then it was not very fast slow".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    choose = random.Random(0)
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    lines = [" ".join(choose.choices(WORDS, k=choose.randint(4, 20))) for _ in range(120)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="session")
def run():
    """Runs the command line in this process: run("methods", "--json")."""
    from rarefy.cli.main import app

    def call(*args):
        return CliRunner().invoke(app, [str(a) for a in args], env={"COLUMNS": "200", "TERM": "dumb"})

    return call


@pytest.fixture(scope="session")
def compressed(run, bert_folder, texts, tmp_path_factory):
    """(folder, what was printed) of a compressed model."""
    out = tmp_path_factory.mktemp("out") / "sparse"
    done = run(
        "compress",
        bert_folder,
        "--sparsity",
        0.7,
        "--ignore",
        "pooler",
        "--data",
        texts,
        "--out",
        out,
        "--against",
        "torch",
    )
    assert done.exit_code == 0, done.output
    return out, done.output
