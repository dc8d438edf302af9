"""A model with selectors goes through a folder and comes back the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import rarefy
from rarefy.core.errors import FileError
from rarefy.core.grid import QuantizeSpec
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


SQUARE = ["*c_attn", "*c_fc", "*mlp.c_proj"]  # leaves attention's c_proj alone, where a turned weight fits too


@pytest.mark.parametrize("ignore", [(), SQUARE], ids=["all", "square"])
def test_low_rank_parts_of_gpt2_lie_beside_weights_as_its_class_has_them(tmp_path: Path, ignore: Any) -> None:
    model, dense = tiny("GPT2"), tiny("GPT2")
    text = [{"input_ids": ids(4, 40, i)} for i in range(2)]
    rarefy.sparsify_activations(model, "r-sparse", sparsity=0.5, data=text, rho=0.7, ignore=ignore)
    rarefy.save(model, tmp_path)
    assert torch.equal(output(rarefy.load(tmp_path), ids()), output(model, ids()))
    assert torch.equal(output(type(dense).from_pretrained(tmp_path).eval(), ids()), output(dense, ids()))  # type: ignore[attr-defined]
    assert torch.equal(output(rarefy.load(tmp_path, model=tiny("GPT2", 1)), ids()), output(model, ids()))


def test_a_folder_whose_low_rank_weights_are_the_other_way_round_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "r-sparse", "GPT2", rho=0.7, ignore=SQUARE)
    told = json.loads((tmp_path / "activations.json").read_text("utf-8"))
    (tmp_path / "activations.json").write_text(json.dumps({k: told[k] for k in told if k != "transposed"}), "utf-8")
    with pytest.raises(FileError, match="is not as its class has it"):
        rarefy.load(tmp_path)


def test_rounded_weights_of_gpt2_with_low_rank_parts_come_back(tmp_path: Path) -> None:
    model = tiny("GPT2")
    text = [{"input_ids": ids(4, 40, i)} for i in range(2)]
    rarefy.sparsify_activations(model, "r-sparse", sparsity=0.3, data=text, rho=0.7)
    rarefy.prune(model, "sparsegpt", sparsity=0.5, data=text, quantize=QuantizeSpec(8), ignore=["lm_head"])
    report = rarefy.save(model, tmp_path)
    assert "transformer.h.0.attn.c_attn.weight" in {t.name for t in report.tensors if t.encoding == "int8"}
    assert torch.equal(output(rarefy.load(tmp_path), ids()), output(model, ids()))


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
