"""A compiled model is called like the original and gives the same outputs, whichever way it runs."""

import pytest
import torch
from torch import nn

import rarefy
from rarefy.core.errors import DataError, DTypeError, EngineError, ModelError, ShapeError
from rarefy.engine import Compiled
from rarefy.engine.program import Region
from rarefy.ops import available

transformers = pytest.importorskip("transformers")


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 80), nn.GELU(), nn.Linear(80, 48), nn.ReLU(), nn.Linear(48, 7)).eval()


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    return transformers.BertModel(config).eval()


def tokens(batch: int, length: int, padded: bool = False) -> dict[str, torch.Tensor]:
    mask = torch.ones(batch, length, dtype=torch.long)
    if padded:
        mask[0, length // 2 :] = 0
    return {"input_ids": torch.randint(0, 60, (batch, length)), "attention_mask": mask}


def pruned(model: nn.Module, sparsity: float = 0.8) -> nn.Module:
    rarefy.prune(model, "magnitude", sparsity=sparsity, measure=False)
    return model


@pytest.mark.parametrize("way", ["graph", "layers", "source"])
def test_outputs_are_the_models_own(way, prefer) -> None:
    prefer(way)
    model = pruned(mlp())
    fast = rarefy.compile(model, torch.randn(16, 48))
    for rows in (16, 1, 5, 64):
        x = torch.randn(rows, 48)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    assert fast.explain().whole[0]["runs"].endswith({"source": "faster)"}.get(way, way))


@pytest.mark.parametrize("way", ["graph", "layers"])
def test_an_encoder_of_hugging_face_keeps_its_outputs_and_its_class(way, prefer) -> None:
    prefer(way)
    model = pruned(bert())
    fast = rarefy.compile(model, [tokens(4, 12), tokens(1, 12)])
    for batch in (tokens(4, 12), tokens(1, 12), tokens(3, 17, padded=True), tokens(1, 1), tokens(2, 40)):
        ours, theirs = fast(**batch), model(**batch)
        assert type(ours) is type(theirs)
        torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, rtol=1e-4, atol=1e-5)
    assert fast.config is model.config


def test_every_pruned_layer_is_sparse_in_the_graph(prefer) -> None:
    prefer("graph")
    fast = rarefy.compile(pruned(bert()), tokens(4, 12))
    rows = [row for row in fast.explain().rows if row.kernel != "dense"]
    assert len(rows) == 2 * 6 + 1  # six linear layers a block, and the pooler
    assert "13 layers sparse" in fast.explain().graph


def test_other_arguments_than_the_examples_run_too(prefer) -> None:
    prefer("graph")
    model = pruned(bert())
    fast = rarefy.compile(model, tokens(4, 12))
    ids = torch.randint(0, 60, (2, 9))
    torch.testing.assert_close(
        fast(input_ids=ids).last_hidden_state, model(input_ids=ids).last_hidden_state, rtol=1e-4, atol=1e-5
    )
    states = fast(**tokens(2, 9), output_hidden_states=True).hidden_states
    assert len(states) == 3


def test_a_model_that_cannot_be_captured_runs_layer_by_layer(prefer) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(24, 24), nn.Linear(24, 24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) if float(x.sum()) > 0 else self.b(x)

    prefer("layers")
    model = pruned(Branching().eval())
    fast = rarefy.compile(model, torch.ones(4, 24))
    for x in (torch.ones(4, 24), -torch.ones(4, 24)):
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    assert "did not take the model" in fast.explain().graph


def test_a_dense_model_stays_as_it_is_and_says_so() -> None:
    model = mlp()
    fast = rarefy.compile(model, torch.randn(4, 48))
    assert {row.kernel for row in fast.explain().rows} == {"dense"}
    assert "zeros" in fast.explain().rows[0].reason
    assert "as it was given" in str(fast.explain())
    x = torch.randn(4, 48)
    assert torch.equal(fast(x), model(x))


def test_where_dense_is_faster_the_layer_stays_dense(prefer) -> None:
    prefer("source", layer="dense")
    fast = rarefy.compile(pruned(mlp()), torch.randn(4, 48))
    assert {row.kernel for row in fast.explain().rows} == {"dense"}
    assert all("dense is as fast" in row.reason for row in fast.explain().rows)


def test_convolutions_are_chosen_like_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 8)).eval()
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    fast = rarefy.compile(model, torch.randn(2, 3, 8, 8))
    row = next(row for row in fast.explain().rows if row.name == "0")
    assert row.reason and (row.kernel == "dense" or row.kernel in row.candidates)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_wrong_variant_is_never_used(prefer, monkeypatch) -> None:
    import importlib

    prefer("graph")
    engine = importlib.import_module("rarefy.engine.assemble")
    wrong = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(48, 7)).eval())
    monkeypatch.setattr(engine, "captured", lambda *a: (wrong, "captured"))
    model = pruned(mlp())
    fast = rarefy.compile(model, torch.randn(4, 48))
    assert any("'graph' is not used: it differs" in note for note in fast.explain().notes)
    x = torch.randn(4, 48)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)


def test_tied_layers_stay_tied_and_are_packed_once(prefer) -> None:
    prefer("layers")
    shared = nn.Linear(32, 32)
    model = pruned(nn.Sequential(shared, nn.ReLU(), shared).eval())
    fast = rarefy.compile(model, torch.randn(4, 32))
    x = torch.randn(4, 32)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_single_linear_layer_is_a_model(prefer) -> None:
    prefer("layers")
    model = pruned(nn.Linear(32, 16).eval())
    fast = rarefy.compile(model, torch.randn(4, 32))
    x = torch.randn(2, 3, 32)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.Linear(32, 16), nn.Conv2d(32, 16, 3, padding=1)], ids=["linear", "conv"])
def test_a_layer_that_is_the_whole_model_is_sparse_in_its_graph(layer, prefer) -> None:
    prefer("graph")
    model = pruned(layer.eval())
    size = (4, 32) if isinstance(layer, nn.Linear) else (4, 32, 12, 12)
    fast = rarefy.compile(model, torch.randn(size))
    assert "1 layers sparse in it" in fast.explain().graph
    x = torch.randn(size)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_source_is_not_changed_and_shares_its_parameters(prefer) -> None:
    prefer("layers")
    model = pruned(mlp())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = rarefy.compile(model, torch.randn(4, 48))
    fast(torch.randn(4, 48))
    assert fast.source is model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [type(m) for m in model] == [nn.Linear, nn.GELU, nn.Linear, nn.ReLU, nn.Linear]
    mine = {p.data_ptr() for p in fast.parameters()}
    assert mine == {p.data_ptr() for p in model.parameters()}


def test_the_thread_count_is_kept_for_the_call_only(prefer) -> None:
    prefer("layers")
    seen = []

    class Watch(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return super().forward(x)

    model = nn.Sequential(Watch(16, 16), nn.Linear(16, 16)).eval()
    model[1].weight.data[:, 2:] = 0
    before = torch.get_num_threads()
    fast = rarefy.compile(model, torch.randn(4, 16), threads=2)
    seen.clear()
    fast(torch.randn(4, 16))
    assert seen == [2] and torch.get_num_threads() == before
    assert fast.explain().threads == 2


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"weights": "int3"}, EngineError, "fp32"),
        ({"threads": 0}, EngineError, "threads=0"),
        ({"example_inputs": []}, DataError, "empty"),
    ],
)
def test_wrong_arguments_say_why(change, error, said) -> None:
    with pytest.raises(error, match=said):
        rarefy.compile(**{"model": mlp(), "example_inputs": torch.randn(4, 48), **change})


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="no prunable layer"):
        rarefy.compile(nn.ReLU(), torch.randn(2))


def test_a_wrong_width_is_an_error_and_not_a_result(prefer) -> None:
    prefer("graph")
    fast = rarefy.compile(pruned(mlp()), torch.randn(4, 48))
    with pytest.raises(ShapeError, match=r"'input' has 47 features in its last dimension.*got float32 \(4, 47\)"):
        fast(torch.randn(4, 47))


@pytest.mark.parametrize("way", ["graph", "layers", "source"])
def test_a_wrong_input_is_named_with_what_was_expected(way, prefer) -> None:
    prefer(way)
    fast = rarefy.compile(pruned(mlp()), torch.randn(4, 48))
    with pytest.raises(DTypeError, match=r"'input' has another type: expected like float32.*got int64"):
        fast(torch.zeros(4, 48, dtype=torch.long))
    fast = rarefy.compile(pruned(bert()), tokens(4, 12))
    with pytest.raises(DTypeError, match=r"'input_ids' has another type: expected like int64 \(4, 12\), got float32"):
        fast(input_ids=torch.randn(4, 12), attention_mask=torch.ones(4, 12, dtype=torch.long))
    with pytest.raises(ShapeError, match="'input_ids' is missing"):
        fast(attention_mask=torch.ones(4, 12, dtype=torch.long))
    with pytest.raises(ShapeError, match=r"does not run on these inputs: .*input_ids int64 \(2, 41\)"):
        fast(**tokens(2, 41))  # beyond the positions that the model has


def test_training_mode_is_refused() -> None:
    fast = rarefy.compile(pruned(mlp()), torch.randn(4, 48))
    with pytest.raises(RuntimeError, match="inference"):
        fast.train()
    assert fast.eval() is fast and isinstance(fast, Compiled)


def test_no_gradient_graph_is_kept(prefer) -> None:
    prefer("graph")
    fast = rarefy.compile(pruned(mlp()), torch.randn(4, 48))
    assert fast(torch.randn(4, 48)).requires_grad is False


def test_a_call_is_looked_up_once_a_signature(prefer, monkeypatch) -> None:
    prefer("graph")
    fast = rarefy.compile(pruned(bert()), [tokens(4, 12), tokens(1, 12)])
    looked = []
    nearest = fast._nearest
    monkeypatch.setattr(fast, "_nearest", lambda a, k: looked.append(1) or nearest(a, k))
    for _ in range(3):
        fast(**tokens(4, 12))
        fast(**tokens(2, 9))
    assert len(looked) == 2


def test_later_calls_of_a_signature_skip_the_looks_at_sizes_and_give_the_same(prefer, monkeypatch) -> None:
    prefer("graph")
    model = pruned(bert())
    fast = rarefy.compile(model, [tokens(4, 12), tokens(1, 12)])
    graph = fast._variants[0].run
    for batch in (tokens(4, 12), tokens(3, 17, padded=True), tokens(1, 1)):
        first = fast(**batch)
        with monkeypatch.context() as patched:
            patched.setattr(type(graph), "__call__", lambda *a, **k: pytest.fail("the checked graph was called again"))
            again = fast(**batch)
        swapped = [fast(**dict(reversed(batch.items()))) for _ in range(2)][1]
        assert type(first) is type(again) is type(swapped)
        for name in first:
            assert torch.equal(first[name], again[name])
            assert torch.equal(first[name], swapped[name])


@pytest.mark.skipif(not available(), reason="needs the native module")
def test_a_model_that_is_one_program_is_called_straight_through(prefer, monkeypatch) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(48, 64), nn.Linear(64, 24)

        def forward(self, unread, x, shift=None):
            return self.second(torch.relu(self.first(x)) + shift)

    prefer("graph")
    model = pruned(Net().eval())
    call = {"unread": torch.randn(3), "shift": torch.randn(4, 64), "x": torch.randn(4, 48)}
    fast = rarefy.compile(model, call)
    for size in (4, 7):
        one = {"unread": torch.randn(3), "shift": torch.randn(size, 64), "x": torch.randn(size, 48)}
        fast(**one)
        other = {name: torch.randn_like(value) for name, value in one.items()}
        with monkeypatch.context() as patched:
            patched.setattr(Region, "forward", lambda *a: pytest.fail("the sizes were looked at again"))
            again = fast(**other)
        torch.testing.assert_close(again, model(**other), rtol=1e-4, atol=1e-5)
        fast(**dict(reversed(one.items())))
        torch.testing.assert_close(fast(**dict(reversed(other.items()))), model(**other), rtol=1e-4, atol=1e-5)


def test_wrong_calls_after_right_ones_are_still_named(prefer) -> None:
    prefer("graph")
    fast = rarefy.compile(pruned(mlp()), torch.randn(16, 48))
    fast(torch.randn(16, 48))
    fast(torch.randn(16, 48))
    for wrong, said in ((torch.randn(16, 47), "47"), (torch.randn(16, 48).double(), "float64")):
        with pytest.raises((ShapeError, DTypeError), match=said):
            fast(wrong)


def test_a_source_that_wins_runs_itself(prefer) -> None:
    prefer("source")
    model = pruned(mlp())
    fast = rarefy.compile(model, torch.randn(4, 48))
    assert fast._nearest((torch.randn(4, 48),), {}) is model
