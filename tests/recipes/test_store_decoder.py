"""A compiled language model comes back compiled: its kernels and tokens, no timing, its weights in the file."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rarefy
from rarefy.core.errors import EngineError, FileError
from rarefy.engine import CompiledDecoder
from rarefy.ops import available
from rarefy.recipes.store_engine import FILE

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(not available(), reason="the native module is not built")
LLAMA = {"vocab_size": 90, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
IDS = torch.arange(12).reshape(2, 6)


def llama(**options: Any) -> Any:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, **HEADS, **options)).eval()
    rarefy.prune(model, "magnitude", sparsity=0.7, measure=False)
    return model


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=90, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    model = transformers.GPT2LMHeadModel(config).eval()
    rarefy.prune(model, "magnitude", sparsity=0.7, measure=False)
    return model


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("nothing should be timed")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    said = json.loads((folder / FILE).read_text())
    change(said)
    (folder / FILE).write_text(json.dumps(said))


def kernels_of(model: CompiledDecoder) -> list[Any]:
    return [(c.merged.name, [(n, p and p.kernel) for n, p in c.steps]) for c in model._runner.plan.all()]


def saved(model: Any, folder: Path, **types: Any) -> CompiledDecoder:
    fast = rarefy.compile(model, IDS, measure=False, **types)
    assert isinstance(fast, CompiledDecoder)
    assert FILE in rarefy.save(fast, folder).companions
    return fast


@pytest.mark.parametrize(
    ("make", "types"),
    [
        (llama, {}),
        (gpt2, {}),
        (lambda: llama(tie_word_embeddings=True), {"weights": "int8"}),
        (llama, {"weights": "int8", "activations": "int8", "data": [IDS, IDS + 20]}),
        (llama, {"weights": "int4"}),
    ],
)
def test_it_comes_back_with_its_kernels_and_tokens_untimed(
    make: Any, types: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = saved(make(), tmp_path, **types)
    monkeypatch.setattr("rarefy.engine.decoder.compile.interleaved", refuse)
    monkeypatch.setattr("rarefy.engine.plan.time_layer", refuse)
    for capture in (False, True):  # packed at the first load, mapped at the second; there is no graph to capture
        back = rarefy.load(tmp_path, capture=capture)
        assert isinstance(back, CompiledDecoder)
        assert kernels_of(back) == kernels_of(fast)
        got, wanted = back(input_ids=IDS), fast(input_ids=IDS)
        assert type(got) is type(wanted) and torch.equal(got.logits, wanted.logits)
        assert torch.equal(back.generate(IDS, max_new_tokens=8), fast.generate(IDS, max_new_tokens=8))
        assert back.explain().rows == fast.explain().rows


def every_count_packed(folder: Path) -> None:
    """Long prompts by kernels too, where torch was chosen."""

    def change(said: dict[str, Any]) -> None:
        for name, steps in said["kernels"].items():
            said["kernels"][name] = [[n, kernel or steps[0][1]] for n, kernel in steps]

    edit(folder, change)


def test_sparse_weights_stay_in_the_file_and_can_be_had_back(tmp_path: Path) -> None:
    model = llama()
    saved(copy.deepcopy(model), tmp_path)
    every_count_packed(tmp_path)
    back = rarefy.load(tmp_path)
    assert isinstance(back, CompiledDecoder) and back.freed
    weights = [p for name, p in back.source.named_parameters() if "proj" in name]
    assert len(weights) == 14 and all(p.untyped_storage().nbytes() == 4 for p in weights)
    assert sum(p.numel() for p in weights) > 14 * 64 * 32
    plain = back.to_dense()
    for name, weight in model.state_dict().items():
        assert torch.equal(plain.state_dict()[name], weight), name
    torch.testing.assert_close(back(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)
    for call in (
        lambda: back(input_ids=IDS, labels=IDS),
        lambda: back.generate(IDS, num_beams=2, max_new_tokens=2),
    ):
        with pytest.raises(EngineError, match=r"left in the file; use \.to_dense\(\)"):
            call()
    rarefy.save(back, tmp_path / "again")
    again = rarefy.load(tmp_path / "again", compiled=False)
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in model.state_dict().items())


def test_on_another_machine_it_is_compiled_again(tmp_path: Path) -> None:
    fast = saved(llama(), tmp_path, weights="int8", activations="int8", data=[IDS, IDS + 20])
    edit(tmp_path, lambda said: said["machine"].update(cpu="another"))
    back = rarefy.load(tmp_path)
    assert isinstance(back, CompiledDecoder) and not back.freed
    assert any("compiled again here: it was compiled on another CPU" in note for note in back.explain().notes)
    assert back.choices.scales == fast.choices.scales and back.choices.scales
    torch.testing.assert_close(back(input_ids=IDS).logits, fast(input_ids=IDS).logits, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda said: said["kernels"].popitem(), "the layers of the model are others"),
        (lambda said: said["parts"].update({"model.layers.0.self_attn.q_proj": ["a"]}), "is 3 layers, not 1"),
        (lambda said: said["precision"].update(weights="int8"), "is none of int8 weights"),
        (lambda said: said.update(parts=[1]), "is damaged"),
    ],
)
def test_choices_that_do_not_fit_are_refused(change: Any, error: str, tmp_path: Path) -> None:
    saved(llama(), tmp_path)
    edit(tmp_path, change)
    with pytest.raises((EngineError, FileError), match=error):
        rarefy.load(tmp_path)
    assert not isinstance(rarefy.load(tmp_path, compiled=False), CompiledDecoder)


def test_selected_inputs_are_skipped_after_loading_too(tmp_path: Path) -> None:
    model = llama()
    rarefy.sparsify_activations(model, "teal", sparsity=0.5, data=[torch.randint(0, 90, (2, 32)) for _ in range(4)])
    fast = saved(model, tmp_path)
    assert any("columns" in str(kernels) for kernels in kernels_of(fast))
    back = rarefy.load(tmp_path)
    assert kernels_of(back) == kernels_of(fast)  # type: ignore[arg-type]
    assert torch.equal(back.generate(IDS, max_new_tokens=8), fast.generate(IDS, max_new_tokens=8))
