"""Embeddings ignore padding and batch order."""

import json

import pytest
import torch

from rarefy.core.errors import FileError
from rarefy.recipes.encoder import load_text_model, pool, pooling_of


def test_mean_pooling_ignores_padding():
    hidden = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [99.0, 99.0]]])
    found = pool(hidden, torch.tensor([[1, 1, 0]]), "mean")
    assert torch.allclose(found, torch.tensor([[0.5, 0.5]]) / 0.5**0.5)


def test_cls_pooling_takes_the_first():
    hidden = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])
    assert torch.allclose(pool(hidden, torch.ones(1, 2), "cls"), torch.tensor([[0.6, 0.8]]))


def test_the_folder_says_how_to_pool(tmp_path):
    assert pooling_of(tmp_path) == "mean"
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert pooling_of(tmp_path) == "cls"
    (tmp_path / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(FileError, match=r"1_Pooling/config\.json: cannot be read as JSON"):
        pooling_of(tmp_path)


def test_folders_without_a_model_are_refused(tmp_path):
    with pytest.raises(FileError, match="no such folder"):
        load_text_model(tmp_path / "none")
    with pytest.raises(FileError, match=r"config\.json"):
        load_text_model(tmp_path)
