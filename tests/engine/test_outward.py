"""A compiled model among code that was written for plain ones: copies, pickles, tracers, autocast, pipelines."""

import copy
import gc
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rarefy
from rarefy.core.errors import EngineError, ModelError, RarefyError
from rarefy.ops import available
from transformers_tiny import ids, tiny

WAYS = ("graph", "layers", "source")


def pruned(model: nn.Module, **options: Any) -> nn.Module:
    rarefy.prune(model.eval(), "magnitude", sparsity=0.85, measure=False, **options)
    return model


def perceptron() -> nn.Module:
    """Its last layer stays dense, with torch or native."""
    torch.manual_seed(0)
    return pruned(nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64), nn.Linear(64, 16)), ignore=["3"])


def convnet() -> nn.Module:
    torch.manual_seed(0)
    return pruned(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)))


def agrees(found: Tensor, wanted: Tensor) -> bool:
    return found.dtype == wanted.dtype and torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)


MODELS = {"perceptron": (perceptron, (4, 64)), "convnet": (convnet, (2, 3, 12, 12))}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_outlives_the_model_that_it_was_copied_from(copied, kind, way, prefer) -> None:
    prefer(way)
    make, shape = MODELS[kind]
    model, x = make(), torch.randn(shape)
    fast = rarefy.compile(model, x)
    fast(x)
    twin = copied(fast)
    assert type(twin) is type(fast) and not twin._choices and fast._choices
    del fast
    gc.collect()
    for batch in (x, x[:1]):
        assert agrees(twin(batch), model(batch))


def test_a_deep_copy_has_parameters_of_its_own(prefer) -> None:
    prefer("layers")
    fast = rarefy.compile(perceptron(), torch.randn(4, 64))
    twin = copy.deepcopy(fast)
    ours, theirs = ({p.data_ptr() for p in (*m.parameters(), *m.source.parameters())} for m in (fast, twin))
    assert not ours & theirs


@pytest.mark.parametrize("keep_dense", [True, False])
def test_a_pickle_is_compiled_again_where_it_is_read(keep_dense, prefer) -> None:
    prefer("graph")
    model, x = perceptron(), torch.randn(4, 64)
    wanted = model(x)
    fast = rarefy.compile(model, x, keep_dense=keep_dense, threads=1)
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    for back in (pickle.loads(pickle.dumps(fast)), torch.load(file, weights_only=False)):
        assert agrees(back(x), wanted) and back.choices.threads == 1 and back.freed == (not keep_dense)
        assert back.explain().whole[0]["runs"] == "the sparse graph"
        assert "compiled again from a pickle" in str(back.explain())


def test_what_is_left_rounded_is_not_pickled(prefer) -> None:
    prefer("graph")
    fast = rarefy.compile(perceptron(), torch.randn(4, 64), weights="int8", activations="int8", keep_dense=False)
    assert fast.freed
    with pytest.raises(ModelError, match="pickle: the model's weights were let go when it was compiled for int8"):
        pickle.dumps(fast)


def test_a_language_model_is_copied_and_pickled() -> None:
    model, tokens = pruned(tiny("Llama")), ids()
    fast = rarefy.compile(model, {"input_ids": tokens}, measure=False)
    wanted = fast.generate(tokens, max_new_tokens=6, do_sample=False)
    twins = [copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))]
    del fast
    gc.collect()
    for twin in twins:
        assert type(twin).__name__ == "CompiledDecoder"
        assert torch.equal(twin.generate(tokens, max_new_tokens=6, do_sample=False), wanted)


@pytest.fixture
def traced() -> Any:
    import torch._dynamo

    torch._dynamo.reset()
    yield torch.compile
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_torch_compile_leaves_a_compiled_model_alone(kind, way, prefer, traced) -> None:
    class Between(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.inner(x * 2)) + 1

    prefer(way)
    make, shape = MODELS[kind]
    model, x = make(), torch.randn(shape)
    fast = rarefy.compile(model, x)
    seen: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        seen.extend(node.op for node in graph.graph.nodes if node.op not in ("placeholder", "output"))
        return graph.forward

    with torch.no_grad():
        alone = traced(fast, backend=backend)
        for batch in (x, x[:1]):
            assert agrees(alone(batch), model(batch))
        assert not seen
        assert agrees(traced(Between(fast), backend=backend)(x), torch.relu(model(x * 2)) + 1)
    assert len(seen) == 3  # the product, relu and sum around it


@pytest.mark.filterwarnings("ignore")
def test_torch_compile_leaves_a_language_model_alone(traced) -> None:
    model, tokens = pruned(tiny("Llama")), ids()
    fast = rarefy.compile(model, {"input_ids": tokens}, measure=False)
    out = traced(fast, backend=lambda graph, _: pytest.fail("it was traced"))(input_ids=tokens)
    assert torch.equal(out.logits, fast(input_ids=tokens).logits)


@pytest.mark.filterwarnings("ignore")
def test_tracers_that_need_to_see_inside_are_refused(prefer) -> None:
    prefer("graph")
    x = torch.randn(4, 64)
    fast = rarefy.compile(perceptron(), x)
    with pytest.raises(EngineError, match=r"torch\.jit\.trace cannot see .* trace the plain model"):
        torch.jit.trace(fast, x)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_autocast_changes_nothing(kind, way, prefer) -> None:
    """Else it would reach only what happens to run in torch."""
    prefer(way)
    make, shape = MODELS[kind]
    model, x = make(), torch.randn(shape)
    fast = rarefy.compile(model, x)
    wanted = fast(x)
    for threads in (None, 1):
        fast._threads = threads
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fast(x), wanted) and model(x).dtype == torch.bfloat16
            assert agrees(fast(x[:1]), wanted[:1])  # a call of another size
            assert (torch.eye(2) @ torch.eye(2)).dtype == torch.bfloat16


def test_a_model_is_compiled_the_same_under_autocast(prefer) -> None:
    prefer("graph")
    model, x = perceptron(), torch.randn(4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        fast = rarefy.compile(model, x)
    assert "is not used" not in str(fast.explain()) and agrees(fast(x), model(x))


def test_autocast_changes_no_text() -> None:
    model, tokens = pruned(tiny("Llama")), ids()
    fast = rarefy.compile(model, {"input_ids": tokens}, measure=False)
    wanted = fast(input_ids=tokens).logits
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(input_ids=tokens).logits, wanted)
        assert model(tokens).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("change", ["half", "bfloat16", "double"])
def test_other_types_are_refused_and_the_model_stays(change, prefer) -> None:
    prefer("graph")
    model, x = perceptron(), torch.randn(4, 64)
    fast = rarefy.compile(model, x)
    with pytest.raises(EngineError, match=r"cannot be converted from torch\.float32 .* convert the plain model"):
        getattr(fast, change)()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for same in (fast.float(), fast.cpu(), fast.to("cpu"), fast.to(torch.float32), fast.eval()):
        assert same is fast
    assert agrees(fast(x), model(x))


def test_a_compiled_model_cannot_be_moved_or_filled(prefer) -> None:
    prefer("graph")
    model = perceptron()
    fast = rarefy.compile(model, torch.randn(4, 64))
    with pytest.raises(EngineError, match="on meta: it is packed for the CPU"):
        fast.to("meta")
    with pytest.raises(EngineError, match="load_state_dict: the weights of a compiled model are packed"):
        fast.load_state_dict(model.state_dict())


def test_a_compiled_encoder_says_what_its_model_says(prefer) -> None:
    prefer("graph")
    model = pruned(tiny("Bert"))
    fast = rarefy.compile(model, {"input_ids": ids()})
    assert fast.config is model.config and fast.main_input_name == "input_ids"
    assert (fast.device, fast.dtype) == (torch.device("cpu"), torch.float32) == (model.device, model.dtype)
    assert not fast.can_generate() and fast.generation_config is None


def test_a_compiled_language_model_says_what_its_model_says() -> None:
    model = pruned(tiny("Llama"))
    fast = rarefy.compile(model, {"input_ids": ids()}, measure=False)
    assert fast.can_generate() and fast.generation_config is model.generation_config
    assert fast.config is model.config and (fast.device, fast.dtype) == (torch.device("cpu"), torch.float32)


def test_any_model_has_a_device_and_a_type(prefer) -> None:
    prefer("graph")
    fast = rarefy.compile(perceptron(), torch.randn(4, 64), keep_dense=False)
    assert (fast.device, fast.dtype, fast.config) == (torch.device("cpu"), torch.float32, None)


@pytest.mark.filterwarnings("ignore")
def test_an_export_of_native_calls_is_refused(prefer) -> None:
    prefer("graph")
    x = torch.randn(4, 64)
    fast = rarefy.compile(perceptron(), x)
    if not available():
        pytest.skip("without the native module the graph is one of torch's operations")
    with pytest.raises(RarefyError, match=r"no memory, as under torch\.export.*trace the plain model"):
        torch.export.export(fast, (x,))
