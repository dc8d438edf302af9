"""Calls that a compiled model was not made for: the source's result, or an error that says what is wrong with them."""

import pytest
import torch
from torch import Tensor, nn

import rarefy
from rarefy.core.errors import DataError, DTypeError, RarefyError, ShapeError
from rarefy.engine.differ import differs
from rarefy.ops import available


def pruned(model: nn.Module) -> nn.Module:
    rarefy.prune(model.eval(), "magnitude", sparsity=0.85, measure=False)
    return model


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return pruned(nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)))


def agrees(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)


class Looks(nn.Module):
    """Reads its layers' weights, as transformers' vision models and torch's own encoder layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.out = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(16, 24)

    def forward(self, x: Tensor, bias: bool = True) -> Tensor:
        hidden = self.patch(x.to(self.patch.weight.dtype)).flatten(2).mT
        shift = 0.0 if self.out.bias is None or not bias else self.out.bias.sum()
        return self.out(hidden) @ self.out.weight + shift


@pytest.mark.parametrize("way", ["graph", "layers"])
def test_a_model_that_looks_into_its_layers_runs_on_other_calls(way, prefer) -> None:
    prefer(way)
    model = pruned(Looks())
    fast = rarefy.compile(model, torch.randn(2, 3, 16, 16))
    assert not [line for line in str(fast.explain()).splitlines() if "is not used" in line]
    x = torch.randn(5, 3, 24, 24)
    for call in ({"x": x}, {"x": x, "bias": False}):
        assert agrees(fast(**call), model(**call))


def test_an_encoder_of_torch_takes_masks_that_it_was_not_compiled_with(prefer) -> None:
    prefer("graph")
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model, x = pruned(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)), torch.randn(3, 10, 64)
    fast, causal = rarefy.compile(model, x), nn.Transformer.generate_square_subsequent_mask(10)
    padded = torch.zeros(3, 10, dtype=torch.bool)
    padded[:, 7:] = True
    for call in ({"mask": causal}, {"src_key_padding_mask": padded}):
        with torch.no_grad():
            assert agrees(fast(x, **call), model(x, **call))


def test_layers_that_fail_where_the_source_does_not_are_left_for_it(prefer) -> None:
    class Tagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 128), nn.Linear(128, 64)
            self.second.tag = 3.0

        def forward(self, x: Tensor, tagged: bool = False) -> Tensor:
            return self.second(torch.relu(self.first(x))) * (self.second.tag if tagged else 1.0)

    prefer("graph")
    model, x = pruned(Tagged()), torch.randn(4, 64)
    fast = rarefy.compile(model, x)
    assert type(fast.layers.second).__name__ == "SparseLinear"
    for _ in range(2):
        assert agrees(fast(x, tagged=True), model(x, tagged=True))


@pytest.mark.parametrize("way", ["graph", "layers", "source"])
def test_a_call_that_runs_looks_for_no_other_way(way, prefer, monkeypatch) -> None:
    """To ask whether weights were let go goes through all modules."""
    prefer(way)
    model, x = mlp(), torch.randn(4, 64)
    fast = rarefy.compile(model, x)
    monkeypatch.setattr(type(fast), "freed", property(lambda self: pytest.fail("all modules were looked at")))
    for _ in range(2):
        assert agrees(fast(x), model(x))


def test_layers_with_other_outputs_are_never_fallen_back_on(prefer, monkeypatch) -> None:
    from rarefy.engine.sparse_linear import SparseLinear

    prefer("graph")
    right = SparseLinear.forward
    monkeypatch.setattr(SparseLinear, "forward", lambda self, x: right(self, x) + 1.0)
    model = mlp()
    fast = rarefy.compile(model, torch.randn(4, 64), keep_dense=False)
    assert "the variant 'layers' is not used: it differs" in str(fast.explain())
    x = torch.randn(2, 3, 64)  # of other dimensions than the example
    assert agrees(fast(x), model(x))


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, given, power=1):
        inner = given["inner"][0]
        return self.second(torch.relu(self.first(given["x"] + inner))) + (1.0 if power is True else 0.0) + power


def nested(rows: int) -> dict[str, object]:
    return {"x": torch.randn(rows, 64), "inner": [torch.randn(64)]}


def test_inputs_may_be_dicts_and_lists_in_every_call() -> None:
    model = pruned(Nested())
    fast = rarefy.compile(model, ({**nested(4)},))
    for rows in (4, 4, 7):
        call = nested(rows)
        assert agrees(fast(call), model(call))


def test_true_is_not_the_constant_one(prefer) -> None:
    prefer("graph")
    model, call = pruned(Nested()), nested(4)
    fast = rarefy.compile(model, {"given": call, "power": 1})
    for power in (True, 1, 1.0, 2):
        assert agrees(fast(given=call, power=power), model(given=call, power=power))


@pytest.mark.parametrize("way", ["graph", "layers", "source"])
def test_outputs_go_on_in_autograd_and_in_place(way, prefer) -> None:
    prefer(way)
    fast, head = rarefy.compile(mlp(), torch.randn(4, 64)), nn.Linear(64, 2)
    y = fast(torch.randn(4, 64))
    assert not y.requires_grad
    head(y).sum().backward()
    assert head.weight.grad.abs().sum() > 0
    y += 1


def test_a_model_that_writes_into_its_inputs_leaves_the_examples_alone(prefer) -> None:
    class Doubles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 128), nn.Linear(128, 64)

        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2)
            return self.second(torch.relu(self.first(x)))

    prefer("graph")
    model, example = pruned(Doubles()), torch.ones(4, 64)
    fast = rarefy.compile(model, example)
    assert torch.equal(example, torch.ones(4, 64))
    assert "is not used" not in str(fast.explain())
    assert agrees(fast(torch.ones(4, 64)), model(torch.ones(4, 64)))


@pytest.mark.skipif(not available(), reason="needs the native module")
@pytest.mark.parametrize("again", [False, True])
def test_tensors_without_memory_are_refused(again, prefer) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    prefer("graph")
    model, x = mlp(), torch.randn(4, 64)
    fast = rarefy.compile(model, x)
    for _ in range(2 if again else 0):
        fast(x)
    with pytest.raises(DTypeError, match="is on meta, the compiled model runs on the CPU"):
        fast(x.to("meta"))
    with torch.device("meta"):
        assert agrees(fast(x), model(x))
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RarefyError, match="has no memory"):
        fast(x)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda f, x: f(x.numpy()), DTypeError, "'input' is no tensor: expected like float32 .4, 64., got a ndarray"),
        (lambda f, x: f([1, 2]), DTypeError, "'input' is no tensor"),
        (lambda f, x: f(x.to_sparse()), DTypeError, "has the layout sparse_coo"),
        (lambda f, x: f(x, extra=1), ShapeError, "It says: .*unexpected keyword argument 'extra'"),
        (lambda f, x: f(None), ShapeError, "these inputs: input nothing; it was compiled for .* It says: ."),
    ],
    ids=["numpy", "list", "sparse", "argument", "none"],
)
def test_wrong_arguments_are_named_with_what_the_model_says(call, error, said, prefer) -> None:
    prefer("graph")
    fast = rarefy.compile(mlp(), torch.randn(4, 64))
    with pytest.raises(error, match=said):
        call(fast, torch.randn(4, 64))


@pytest.mark.parametrize("example", [None, torch.randn(3, 7), {"x": torch.randn(3, 64)}], ids=["none", "width", "name"])
def test_an_example_that_the_model_does_not_run_on_is_named(example) -> None:
    with pytest.raises(DataError, match=r"compile: the model does not run on example_inputs\[1\]"):
        rarefy.compile(mlp(), [torch.randn(3, 64), example])


def test_a_result_that_is_not_finite_where_the_models_is_differs() -> None:
    ones, broken = torch.ones(4, 4), torch.ones(4, 4)
    for value in (float("nan"), float("inf"), -float("inf")):
        broken[1, 2] = value
        assert differs(broken, ones)[0] is not None
        assert differs(ones, broken)[0] is not None
        assert differs(broken, broken.clone())[0] is None  # masked outputs are infinite on both sides
    assert differs(-broken, broken)[0] is not None
