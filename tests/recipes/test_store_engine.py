"""A compiled model comes back compiled: the same kernels, no timing, no dense copy, and never a kernel by trust."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rarefy
from convnets import Small, native_everywhere, prepared
from needs import needs_native
from rarefy.core.errors import EngineError, FileError, ModelError
from rarefy.engine import Compiled
from rarefy.engine.sparse_linear import SparseLinear
from rarefy.recipes.store_engine import FILE, INPUTS

transformers = pytest.importorskip("transformers")
SMALL = {"vocab_size": 60, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64)).eval()


def pruned(model: nn.Module) -> nn.Module:
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    return model


def bert() -> nn.Module:
    torch.manual_seed(0)
    return transformers.BertModel(
        transformers.BertConfig(**SMALL, intermediate_size=128, max_position_embeddings=40)
    ).eval()


def ids(batch: int = 4, length: int = 12) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(0, 60, (batch, length)), "attention_mask": torch.ones(batch, length).long()}


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("nothing should be timed")


@pytest.fixture
def saved(tmp_path: Path, prefer: Callable[..., None]) -> tuple[nn.Module, Path]:
    """A pruned model compiled with every layer sparse, and the folder where it was saved."""
    prefer("graph")
    model = pruned(network())
    fast = rarefy.compile(model, [torch.randn(16, 64), torch.randn(1, 64)])
    said = rarefy.save(fast, tmp_path)
    assert {FILE, INPUTS} <= set(said.companions)
    return model, tmp_path


def kernels_of(model: nn.Module) -> list[str]:
    found = [m for m in model.modules() if isinstance(m, SparseLinear)]
    return [packed.kernel for m in found for _, packed in m.plan.steps if packed is not None]


def test_it_comes_back_with_its_kernels_untimed(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = saved
    monkeypatch.setattr("rarefy.engine.plan.time_layer", refuse)
    monkeypatch.setitem(rarefy.compile.__globals__, "interleaved", refuse)
    back = rarefy.load(folder, model=network(1))
    assert isinstance(back, Compiled)
    assert len(kernels_of(back)) == 4
    for rows in (1, 7, 16, 50):
        x = torch.randn(rows, 64)
        torch.testing.assert_close(back(x), model(x), rtol=1e-5, atol=1e-5)
    assert [row.kernel for row in back.explain().rows][:2] == kernels_of(back)[:2]


def test_no_dense_weight_is_kept_and_the_model_can_be_had_back(saved: Any) -> None:
    model, folder = saved
    back = rarefy.load(folder, model=network(1))
    assert isinstance(back, Compiled) and back.freed
    dense = sum(p.untyped_storage().nbytes() for p in back.parameters())
    assert dense == 4 * (96 + 64)  # the biases
    plain = back.to_dense()
    assert type(plain) is nn.Sequential
    for name, weight in model.state_dict().items():
        assert torch.equal(plain.state_dict()[name], weight)
    x = torch.randn(3, 64)
    torch.testing.assert_close(plain(x), model(x))
    torch.testing.assert_close(back(x), model(x), rtol=1e-5, atol=1e-5)  # and it still runs itself
    with pytest.raises(EngineError, match="let go"):
        back.layers(x.double())


def test_a_loaded_compiled_model_is_saved_again_whole(saved: Any, tmp_path: Path) -> None:
    model, folder = saved
    back = rarefy.load(folder, model=network(1))
    rarefy.save(back, tmp_path / "again")
    plain = rarefy.load(tmp_path / "again", model=network(2), compiled=False)
    assert not isinstance(plain, Compiled)
    assert all(torch.equal(plain.state_dict()[n], w) for n, w in model.state_dict().items())
    assert isinstance(rarefy.load(tmp_path / "again", model=network(2)), Compiled)


def test_a_plain_model_saved_over_it_forgets_the_kernels(saved: Any) -> None:
    _, folder = saved
    rarefy.save(network(), folder)
    assert not (folder / FILE).exists() and not (folder / INPUTS).exists()
    assert not isinstance(rarefy.load(folder, model=network(1)), Compiled)


@pytest.mark.parametrize("change", [{"cpu": "another"}, {"features": {}}, {"threads": 99}])
def test_on_another_machine_it_is_compiled_again(
    change: dict[str, Any], saved: Any, prefer: Callable[..., None]
) -> None:
    model, folder = saved
    edit(folder, lambda said: said["machine"].update(change))
    back = rarefy.load(folder, model=network(1))
    assert isinstance(back, Compiled)
    assert any("compiled again here" in note for note in back.explain().notes)
    x = torch.randn(16, 64)
    torch.testing.assert_close(back(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_kernel_that_is_not_here_is_never_run(saved: Any) -> None:
    model, folder = saved
    edit(folder, lambda said: said["kernels"].update({"0": [[16, "spmm-of-another-cpu"]]}))
    back = rarefy.load(folder, model=network(1))
    assert any("no kernel 'spmm-of-another-cpu'" in note for note in back.explain().notes)
    assert "spmm-of-another-cpu" not in kernels_of(back)
    x = torch.randn(16, 64)
    torch.testing.assert_close(back(x), model(x), rtol=1e-5, atol=1e-5)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    said = json.loads((folder / FILE).read_text())
    change(said)
    (folder / FILE).write_text(json.dumps(said))


BROKEN: list[Callable[[dict[str, Any]], Any]] = [
    lambda said: said.pop("kernels"),
    lambda said: said["kernels"].update({"0": []}),
    lambda said: said["kernels"].update({"0": [[-1, None]]}),
    lambda said: said["kernels"].update({"0": [["many", None]]}),
    lambda said: said["precision"].update({"weights": "int3"}),
    lambda said: said["precision"].update({"more": 1}),
    lambda said: said["scales"].update({"0": [0.0, 3]}),
    lambda said: said["scales"].update({"0": [0.1, 300]}),
    lambda said: said.update({"runs": ["graph"]}),
    lambda said: said.update({"runs": ["eval()", "graph"]}),
    lambda said: said.update({"threads": -2}),
    lambda said: said["examples"][0]["args"].append({"tensor": "nowhere"}),
    lambda said: said.update({"explanation": {"rows": []}}),
    lambda said: said.update({"layout": 7}),
]


@pytest.mark.parametrize("change", BROKEN)
def test_a_damaged_file_says_what_to_do(change: Callable[[dict[str, Any]], Any], saved: Any) -> None:
    _, folder = saved
    edit(folder, change)
    with pytest.raises(FileError, match=r"engine\.json.*delete"):
        rarefy.load(folder, model=network(1))
    assert not isinstance(rarefy.load(folder, model=network(1), compiled=False), Compiled)


def test_a_layer_that_is_not_there_is_refused(saved: Any) -> None:
    _, folder = saved
    edit(folder, lambda said: said["kernels"].update({"elsewhere": said["kernels"]["0"]}))
    with pytest.raises(EngineError, match="'elsewhere', but it is no layer"):
        rarefy.load(folder, model=network(1))


def test_hugging_face_models_too(tmp_path: Path, prefer: Callable[..., None]) -> None:
    prefer("graph")
    model = pruned(bert())
    rarefy.save(rarefy.compile(model, ids()), tmp_path)
    back = rarefy.load(tmp_path)
    assert isinstance(back, Compiled) and type(back.source) is type(model)
    batch = ids(3, 9)
    ours, theirs = back(**batch), model(**batch)
    assert type(ours) is type(theirs)
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, rtol=1e-4, atol=1e-5)
    held = sum(p.numel() for p in back.parameters())
    layers = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    assert held == sum(p.numel() for p in model.parameters()) - layers


class Tied(nn.Module):
    """The embedding's weight is the last layer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(96, 64)
        self.inside, self.head = nn.Linear(64, 64), nn.Linear(64, 96, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.inside(self.embedding(ids)))


def test_a_weight_that_an_embedding_shares_stays(tmp_path: Path, prefer: Callable[..., None]) -> None:
    prefer("layers")
    torch.manual_seed(0)
    model, ids = pruned(Tied().eval()), torch.randint(0, 96, (2, 8))
    rarefy.save(rarefy.compile(model, ids), tmp_path)
    back = rarefy.load(tmp_path, model=Tied())
    assert isinstance(back, Compiled) and back.freed and len(kernels_of(back)) == 2
    torch.testing.assert_close(back(ids), model(ids), rtol=1e-4, atol=1e-5)
    plain = back.to_dense()
    assert all(torch.equal(plain.state_dict()[n], w) for n, w in model.state_dict().items())


def test_a_captured_graph_can_be_had_at_once(saved: Any) -> None:
    model, folder = saved
    back = rarefy.load(folder, model=network(1), capture=True)
    assert isinstance(back, Compiled) and back.freed
    assert "captured" in back.explain().graph
    x = torch.randn(16, 64)
    torch.testing.assert_close(back(x), model(x), rtol=1e-5, atol=1e-5)


def test_where_nothing_was_faster_the_model_is_the_plain_one(tmp_path: Path, prefer: Callable[..., None]) -> None:
    prefer("source")
    model = pruned(network())
    rarefy.save(rarefy.compile(model, torch.randn(16, 64)), tmp_path)
    back = rarefy.load(tmp_path, model=network(1))
    assert isinstance(back, Compiled) and not back.freed
    x = torch.randn(16, 64)
    assert torch.equal(back(x), model(x))


@pytest.mark.parametrize("way", ["graph", "layers"])
def test_compiling_without_keeping_dense_empties_the_weights(way: str, prefer: Callable[..., None]) -> None:
    prefer(way)
    model = pruned(bert())
    twin = copy.deepcopy(model)
    fast = rarefy.compile(model, ids(), keep_dense=False)
    assert fast.freed
    assert all(m.weight.numel() == 0 for m in model.modules() if isinstance(m, nn.Linear))
    for batch in (ids(), ids(2, 7)):
        theirs = twin(**batch).last_hidden_state
        torch.testing.assert_close(fast(**batch).last_hidden_state, theirs, rtol=1e-4, atol=1e-5)
    plain = fast.to_dense()
    assert all(torch.equal(plain.state_dict()[n], w) for n, w in twin.state_dict().items())


class Peeking(nn.Module):
    """Reads its layer's weight behind the layer's back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + x @ self.layer.weight


def test_a_weight_that_is_read_elsewhere_is_not_let_go(prefer: Callable[..., None]) -> None:
    prefer("layers")
    model = pruned(Peeking())
    x = torch.randn(8, 64)
    expected = model(x)
    fast = rarefy.compile(model, x, keep_dense=False)
    assert not fast.freed
    torch.testing.assert_close(fast(x), expected, rtol=1e-5, atol=1e-5)


def test_rounded_weights_are_not_saved_as_the_truth(tmp_path: Path, prefer: Callable[..., None]) -> None:
    prefer("layers")
    model = pruned(network())
    fast = rarefy.compile(model, torch.randn(16, 64), weights="bf16", keep_dense=False)
    if not fast.freed:
        pytest.skip("no kernel stores bf16 here")
    with pytest.raises(ModelError, match="rounded"):
        rarefy.save(fast, tmp_path)


def test_weights_are_mapped_from_the_file_and_survive_its_replacement(tmp_path: Path) -> None:
    model = network()
    rarefy.save(model, tmp_path)
    back = rarefy.load(tmp_path, model=network(1))
    state = copy.deepcopy(back.state_dict())
    rarefy.save(network(2), tmp_path)
    assert all(torch.equal(value, state[name]) for name, value in back.state_dict().items())
    with torch.no_grad():
        back[0].weight.add_(1.0)  # a private copy: the file is not written
    again = rarefy.load(tmp_path, model=network(1))
    assert torch.equal(again[0].weight, network(2)[0].weight)


@pytest.mark.parametrize("factors", [True, False])
def test_static_scales_come_back_with_their_factors(factors: bool, tmp_path: Path, prefer: Callable[..., None]) -> None:
    """Twice: the second load sees the packed weights of the first, in which the factors are folded."""
    prefer("graph")
    model = pruned(network())
    spread = torch.full((64,), 1.0)
    spread[:3] = 60.0 if factors else 1.0
    data = [torch.randn(64, 64) * spread for _ in range(6)]
    fast = rarefy.compile(model, data[0], weights="int8", activations="int8", data=data, keep_dense=True)
    assert isinstance(fast, Compiled) and fast.choices is not None
    if not fast.choices.kernels:
        pytest.skip("no 8-bit kernel is faster here")
    assert bool(fast.choices.scales["0"].factors) == factors
    rarefy.save(fast, tmp_path)
    x = torch.randn(16, 64) * spread
    for _ in range(2):
        back = rarefy.load(tmp_path, model=network(1))
        assert isinstance(back, Compiled) and back.choices is not None
        assert back.choices.scales == fast.choices.scales
        torch.testing.assert_close(back(x), fast(x), rtol=1e-4, atol=1e-4)
        assert float((back(x) - model(x)).norm() / model(x).norm()) < 0.05


@needs_native
def test_scales_of_8_bit_images_come_back(
    tmp_path: Path, prefer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer("graph")
    native_everywhere(monkeypatch)
    model, data = prepared(Small(), density=0.3), [torch.randn(2, 3, 29, 37) for _ in range(3)]
    fast = rarefy.compile(model, data[0], weights="int8", activations="int8", data=data)
    rarefy.save(fast, tmp_path)
    back = rarefy.load(tmp_path, model=prepared(Small(), density=0.3))
    assert isinstance(fast, Compiled) and isinstance(back, Compiled)
    assert fast.choices is not None and back.choices is not None
    (scales,) = fast.choices.image_scales
    assert len(scales) == 4 and all(of_result and of_image for of_result, of_image, _ in scales.values())
    assert [dict(one) for one in back.choices.image_scales] == [dict(scales)]
    x = 0.1 * data[1]  # each image's own range would give other steps
    assert torch.equal(back(x), fast(x))
    edit(tmp_path, lambda said: said["image_scales"][0].popitem())
    noted = rarefy.load(tmp_path, model=prepared(Small(), density=0.3))
    assert isinstance(noted, Compiled) and any("no scales were saved for" in n for n in noted.explain().notes)
    edit(tmp_path, lambda said: said["image_scales"][0].update(stem=[[-1.0, 0], None, None]))
    with pytest.raises(FileError, match="make no sense"):
        rarefy.load(tmp_path, model=prepared(Small(), density=0.3))
