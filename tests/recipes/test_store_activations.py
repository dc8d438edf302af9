"""A model with selectors goes through a folder and comes back the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import rarefy
from rarefy.core.errors import FileError
from rarefy.selectors import Threshold, TopK, detach
from rarefy.selectors.attach import attached
from transformers_tiny import ids, output, tiny

CASES: list[tuple[str, dict[str, Any]]] = [
    ("teal", {"allocation": "uniform"}),
    ("wina", {"allocation": "uniform", "rotate": True}),
    ("chess", {}),
    ("larosa", {}),
    ("r-sparse", {"rho": 0.7}),
]


def saved(folder: Path, method: str, kind: str = "Llama", **options: Any) -> torch.nn.Module:
    model = tiny(kind)
    text = [{"input_ids": ids(4, 40, i)} for i in range(2)]
    rarefy.sparsify_activations(model, method, sparsity=0.5, data=text, **options)
    rarefy.save(model, folder)
    return model


@pytest.mark.parametrize(("method", "options"), CASES, ids=[m for m, _ in CASES])
def test_it_comes_back_the_same(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    model = saved(tmp_path, method, **options)
    again = rarefy.load(tmp_path)
    assert torch.equal(output(again, ids()), output(model, ids()))
    pairs = list(zip(attached(model), attached(again), strict=True))
    assert pairs
    for (name, _, selector), (other, _, found) in pairs:
        assert name == other and type(selector) is type(found)
        if isinstance(selector, TopK) and isinstance(found, TopK):
            assert selector.k == found.k
        if isinstance(selector, Threshold) and isinstance(found, Threshold):
            assert torch.equal(selector.threshold, found.threshold)
    detach(model)
    assert detach(again) == len(pairs) and torch.equal(output(again, ids()), output(model, ids()))


def test_a_folder_of_a_turned_model_is_refused_by_loaders_that_know_nothing_of_it(tmp_path: Path) -> None:
    saved(tmp_path / "turned", "larosa")
    saved(tmp_path / "plain", "teal", allocation="uniform")
    told = [json.loads((tmp_path / name / "config.json").read_text("utf-8")) for name in ("turned", "plain")]
    assert told[0]["quantization_config"]["sparsity_config"]["format"] == "rarefy-turned"
    assert "quantization_config" not in told[1]


def test_a_plain_model_saved_over_it_leaves_no_selectors(tmp_path: Path) -> None:
    saved(tmp_path, "teal", allocation="uniform")
    assert (tmp_path / "activations.json").exists()
    rarefy.save(tiny("Llama", 1), tmp_path)
    assert not (tmp_path / "activations.json").exists() and not list(attached(rarefy.load(tmp_path)))


def test_files_of_other_weights_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a", "teal", allocation="uniform")
    rarefy.save(tiny("Llama", 1), tmp_path / "b")
    for name in ("activations.json", "activations.safetensors"):
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    with pytest.raises(FileError, match="belongs to other weights"):
        rarefy.load(tmp_path / "b")
    told = json.loads((tmp_path / "a" / "activations.json").read_text("utf-8"))
    told["selectors"][0]["name"] = "model.layers.7"
    (tmp_path / "a" / "activations.json").write_text(json.dumps(told), "utf-8")
    with pytest.raises(FileError, match="does not fit the model"):
        rarefy.load(tmp_path / "a")
    (tmp_path / "a" / "activations.json").write_text(json.dumps(told | {"layout": 9}), "utf-8")
    with pytest.raises(FileError, match="layout 9"):
        rarefy.load(tmp_path / "a")


def test_another_selector_says_that_no_file_holds_it(tmp_path: Path) -> None:
    from rarefy.selectors import projections, select_inputs

    class Own:
        width = None

        def mask(self, x: torch.Tensor) -> torch.Tensor:
            return x > 0

        def __call__(self, x: torch.Tensor, context: Any = None) -> Any:
            raise NotImplementedError

    model = tiny("Llama")
    select_inputs(projections(model)[0].module, Own())
    with pytest.raises(FileError, match="has a Own, which no file holds"):
        rarefy.save(model, tmp_path)
