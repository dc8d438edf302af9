"""A sparse encoder as a sentence-transformers model: plain, and on the kernels that it was compiled for."""

import json
from pathlib import Path

import numpy
import pytest
import torch

import rarefy
from rarefy.engine import Compiled

pytest.importorskip("sentence_transformers")
transformers = pytest.importorskip("transformers", "5.0")
pytestmark = pytest.mark.usefixtures("transformers_tables")
TEXTS = ["a b c", "x y z w v", "q"]


def companions(folder: Path) -> Path:
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 123))]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "1_Pooling").mkdir()
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    for name, said in {
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"},
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True},
    }.items():
        (folder / name).write_text(json.dumps(said))
    return folder


def test_it_encodes_as_the_dense_model_does(tmp_path) -> None:
    torch.manual_seed(0)
    carried = companions(tmp_path / "carried")
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128, vocab_size=31
    )
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            if parameter.dim() == 2:
                parameter[torch.rand(parameter.shape) < 0.8] = 0
    assert rarefy.save(model, tmp_path / "plain", carry=carried).pruned
    ids = torch.randint(5, 31, (2, 8))
    rarefy.save(rarefy.compile(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}), tmp_path / "fast")
    rarefy.save(rarefy.load(tmp_path / "fast"), tmp_path / "fast", carry=carried)
    batch = transformers.AutoTokenizer.from_pretrained(carried)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    expected = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    plain, fast = (rarefy.sentence_transformer(tmp_path / name) for name in ("plain", "fast"))
    assert isinstance(fast[0].model.model, Compiled) and not isinstance(plain[0].model.model, Compiled)
    for found in (plain, fast):
        assert numpy.allclose(found.encode(TEXTS), expected, atol=1e-5)
