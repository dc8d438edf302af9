"""A model with predictors goes through a folder and chooses the same, in another process too."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rarefy
from rarefy.activations.deja_vu import DejaVu
from rarefy.activations.foreseen_layer import attach_oracle
from rarefy.activations.polar_sparsity import PolarSparsity
from rarefy.activations.relufication import Relufication
from rarefy.core.errors import FileError, ShapeError
from rarefy.formats.container import prepare, write
from rarefy.formats.folder import read_contents
from rarefy.ops import available
from rarefy.selectors import TopK, detach, feed_forwards, projections, select_hidden, select_inputs
from rarefy.selectors.attach import attached
from rarefy.selectors.foreseen import Foreseen, watches
from rarefy.selectors.likeliest import Likeliest
from rarefy.selectors.predictor import Predictor
from transformers_tiny import ids, output, tiny

DATA, HELD = [{"input_ids": ids(4, 40, 1)}], [{"input_ids": ids(4, 40, 2)}]
WAYS = {
    "deja-vu": DejaVu(0.5, heads=0.5, rank=8, steps=3),
    "a layer ahead": DejaVu(0.5, rank=8, steps=3, lookahead=True),
    "polar": PolarSparsity(heads=0.5, recall=0.9, full=0.95, rank=8, steps=3),
}
PROGRAM = """
import sys
import torch
import rarefy
model = rarefy.load(sys.argv[1])
with torch.no_grad():
    torch.save(model(input_ids=torch.load(sys.argv[2])).logits, sys.argv[3])
"""


def foreseeing(way: str = "deja-vu", kind: str = "Llama") -> nn.Module:
    model = tiny(kind)
    Relufication().apply(model)
    WAYS[way].apply(model, DATA, HELD)
    return model


@pytest.mark.parametrize("kind", ["Llama", "OPT", "GPT2"])
@pytest.mark.parametrize("way", WAYS)
def test_it_comes_back_the_same(tmp_path: Path, way: str, kind: str) -> None:
    model = foreseeing(way, kind)
    rarefy.save(model, tmp_path)
    again = rarefy.load(tmp_path)
    assert torch.equal(output(again, ids()), output(model, ids()))
    for (name, _, selector), (other, _, found) in zip(attached(model), attached(again), strict=True):
        assert name == other and isinstance(selector, Foreseen) and isinstance(found, Foreseen)
        assert torch.equal(selector._mask, found._mask)  # what the last call chose
    foreseen = output(again, ids())
    assert detach(again) == len(list(attached(model))) and not torch.equal(output(again, ids()), foreseen)


def test_another_process_computes_the_same_to_the_bit(tmp_path: Path) -> None:
    model = foreseeing()
    rarefy.save(model, tmp_path / "model")
    torch.save(ids(), tmp_path / "ids")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    program = [sys.executable, "-W", "ignore", "-c", PROGRAM, *(str(tmp_path / n) for n in ("model", "ids", "out"))]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: Tensor = torch.load(tmp_path / "out")
    assert torch.equal(found, output(model, ids()))


@pytest.mark.skipif(not available(), reason="the native module is not built")
@pytest.mark.parametrize("kind", ["Llama", "OPT"])
def test_compiled_after_a_load_it_is_what_it_was_compiled_before(tmp_path: Path, kind: str) -> None:
    fast = rarefy.compile(foreseeing(kind=kind), {"input_ids": ids()}, measure=False)
    rarefy.save(fast, tmp_path)
    again: Any = rarefy.compile(rarefy.load(tmp_path), {"input_ids": ids()}, measure=False)
    assert type(again).__name__ == "CompiledDecoder" and "neurons" in str(again.explain())
    assert torch.equal(output(again, ids()), output(fast, ids()))
    assert torch.equal(again.generate(ids(1), max_new_tokens=8), fast.generate(ids(1), max_new_tokens=8))


@pytest.mark.parametrize("selected", [True, False])
def test_the_choice_is_made_before_or_behind_a_selector_of_the_same_input(tmp_path: Path, selected: bool) -> None:
    model = tiny("Llama")
    layer = feed_forwards(model)[0]
    torch.manual_seed(0)
    chosen = Foreseen(Likeliest(Predictor(32, 64, 0).requires_grad_(False), 9), 64)
    hang = [lambda: select_inputs(layer.gate, TopK(4)), lambda: chosen.watch(layer.gate)]
    for one in hang if selected else reversed(hang):
        one()
    select_hidden(layer.activation, chosen)
    rarefy.save(model, tmp_path)
    again = rarefy.load(tmp_path)
    assert torch.equal(output(again, ids()), output(model, ids()))
    hooks = [type(hook).__name__ for hook in feed_forwards(again)[0].gate._forward_pre_hooks.values()]
    assert hooks == (["InputSelector", "Watch"] if selected else ["Watch", "InputSelector"])


def test_what_is_foreseen_by_no_predictor_or_nowhere_is_refused_by_its_name(tmp_path: Path) -> None:
    model = tiny("OPT")
    attach_oracle(feed_forwards(model)[1])
    with pytest.raises(FileError, match=r"layers\.1\.activation_fn uses is foreseen by choose, which no file holds"):
        rarefy.save(model, tmp_path)
    model = tiny("OPT")
    select_hidden(feed_forwards(model)[0].activation, Foreseen(Likeliest(Predictor(32, 64, 0), 9), 64))
    with pytest.raises(FileError, match="foreseen nowhere in the model; watch it at one layer"):
        rarefy.save(model, tmp_path)


def test_damaged_predictors_are_refused(tmp_path: Path) -> None:
    rarefy.save(foreseeing(), tmp_path)
    path, tensors = tmp_path / "activations.json", tmp_path / "activations.safetensors"
    told, held = json.loads(path.read_text("utf-8")), dict(read_contents(tensors).tensors)
    assert told["layout"] == 2
    first = next(i for i, said in enumerate(told["selectors"]) if said["kind"] == "foreseen")

    def refused(match: str, **change: Any) -> None:
        records = [said | (change if i == first else {}) for i, said in enumerate(told["selectors"])]
        path.write_text(json.dumps(told | {"selectors": records}), "utf-8")
        with pytest.raises(FileError, match=match):
            rarefy.load(tmp_path)

    refused("does not fit the model", source="model.layers.9")
    refused("Likeliest: kept=-1", kept=-1)
    refused("does not fit the model.*made for", spread=5)
    for part in ("mean", "second.weight"):
        name = f"selectors.{first}.{part}"
        prepared = prepare({n: t for n, t in held.items() if n != name})
        write(tensors, prepared)
        told["tensors"] = prepared.metadata["rarefy.digest"]
        refused(f"Predictor.of: {part} is missing")


def test_a_predictor_of_parts_that_do_not_fit_each_other_is_refused() -> None:
    state = Predictor(6, 4, 2).state_dict()
    x = torch.randn(5, 6)
    net = Predictor.of(state)
    assert not any(p.requires_grad for p in net.parameters()) and net(x).shape == (5, 4)
    with pytest.raises(ShapeError, match="do not fit each other"):
        Predictor.of(state | {"scale": torch.ones(7)})
    with pytest.raises(ShapeError, match=r"mean is \(1, 6\)"):
        Predictor.of(state | {"mean": torch.ones(1, 6)})


def test_a_model_without_predictors_is_written_for_earlier_readers_too(tmp_path: Path) -> None:
    model = tiny("OPT")
    select_inputs(projections(model)[0].module, TopK(3))
    assert not watches(projections(model)[0].module)
    rarefy.save(model, tmp_path)
    assert json.loads((tmp_path / "activations.json").read_text("utf-8"))["layout"] == 1
