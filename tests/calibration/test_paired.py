"""The walk against a dense twin: what each layer gets is the sparse model's, what it should give the dense one's."""

import copy

import pytest
import torch
from torch import Tensor, nn

from contracts.models import perceptron
from rarefy.calibration import collect, walk
from rarefy.calibration.observe import Spot, look
from rarefy.calibration.paired import PairedBlock
from rarefy.calibration.residual import residual_spots
from rarefy.core.evidence import Evidence, Need
from rarefy.core.site import Site, find_sites

NEEDS = frozenset({Need.INPUT_GRAM, Need.WANTED_CROSS})


class PreNorm(nn.Module):
    """A residual block of the kind of today's decoders: x + b(act(a(norm(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(self.norm(x))))


class PostNorm(nn.Module):
    """A residual block of the kind of BERT: norm(x + a(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.a(x))


def stack(kind: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(*(kind(12) for _ in range(3))).eval()


@pytest.mark.parametrize(("kind", "adds"), [(PreNorm, "b"), (PostNorm, "a")])
def test_the_layer_that_adds_to_the_residual_stream_is_found(kind, adds) -> None:
    block = kind(12).eval()
    found = residual_spots(block, ["a", "b"] if hasattr(block, "b") else ["a"], [torch.randn(5, 12)], {})
    assert list(found) == [adds]
    assert found[adds] in (Spot("", "in"), Spot("norm", "in"), Spot("a", "in"))


def test_a_plain_layer_adds_to_nothing() -> None:
    model = perceptron().model
    assert residual_spots(model, ["0", "2", "4"], [torch.randn(5, 16)], {}) == {}


def test_looking_stops_the_run_once_all_was_seen() -> None:
    ran = []

    class Last(nn.Identity):
        def forward(self, x: Tensor) -> Tensor:
            ran.append(1)
            return x

    model = nn.Sequential(nn.Linear(4, 4), Last())
    seen = look(model, [Spot("0", "in"), Spot("0", "out")], [torch.ones(2, 4)], {})
    assert torch.equal(seen[Spot("0", "out")], model[0](torch.ones(2, 4))) and not ran
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks


def _wanted(dense: nn.Module, sparse: nn.Module, kind: type[nn.Module], index: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """By hand: inputs of the last layer of block `index` in the sparse model, and the output wanted of it."""
    xs, xd = x, x
    for i in range(index):
        xs, xd = sparse[i](xs), dense[i](xd)
    mine, theirs = sparse[index], dense[index]
    if kind is PostNorm:
        return xs, xd @ theirs.a.weight.t() + (xd - xs)
    h = torch.relu(theirs.a(theirs.norm(xd)))
    return torch.relu(mine.a(mine.norm(xs))), h @ theirs.b.weight.t() + (xd - xs)


@pytest.mark.parametrize("kind", [PreNorm, PostNorm])
@torch.no_grad()
def test_the_cross_moment_is_that_of_the_definition(kind) -> None:
    model, batches = stack(kind), [torch.randn(9, 12) for _ in range(3)]
    dense = copy.deepcopy(model)
    sites, _ = find_sites(model)
    last = "b" if kind is PreNorm else "a"
    checked = []

    def visit(site: Site, evidence: Evidence) -> None:
        block, name = site.name.split(".")
        if name == last:
            pairs = [_wanted(dense, model, kind, int(block), x) for x in batches]
            cross = sum(t.t() @ x for x, t in pairs)
            gram = sum(x.t() @ x for x, _ in pairs)
            torch.testing.assert_close(evidence[Need.WANTED_CROSS], cross, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(evidence[Need.INPUT_GRAM], gram, rtol=1e-4, atol=1e-4)
            checked.append(block)
        weight = site.read()
        site.write(weight, weight.abs() > weight.abs().median())  # later sites see this

    walk(model, sites, batches, NEEDS, visit)
    assert checked == ["0", "1", "2"]
    assert not torch.equal(model[0].a.weight, dense[0].a.weight)


@torch.no_grad()
def test_with_and_without_room_for_the_twin_is_the_same() -> None:
    batches = [torch.randn(9, 12) for _ in range(3)]
    results = []
    for room in (0, 1 << 30):
        model = stack(PreNorm)[0]
        sites, _ = find_sites(model)
        seen: dict[str, Tensor] = {}
        pair = PairedBlock(model, sites, NEEDS, 0, room=room)
        inputs = [([x], {}) for x in batches]
        outputs = pair.run(inputs, inputs, batches, lambda s, e, seen=seen: seen.update({s.name: e[Need.WANTED_CROSS]}))
        assert all((out is None) == (room == 0) for out in outputs)
        results.append(seen)
    assert results[0].keys() == results[1].keys() == {"a", "b"}
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name])


@torch.no_grad()
def test_a_dense_model_wants_its_own_outputs() -> None:
    case = perceptron()
    sites, _ = find_sites(case.model)

    def visit(site: Site, evidence: Evidence) -> None:
        own = site.read() @ evidence[Need.INPUT_GRAM]
        torch.testing.assert_close(evidence[Need.WANTED_CROSS], own, rtol=1e-3, atol=1e-3)

    walk(case.model, sites, case.batches, NEEDS, visit)


class InPlace(nn.Module):
    """`b` reads the tensor that `a` has read, with other values; the output of `a` is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        y = self.a(x).relu_()
        return self.c((y + self.b(x.relu_())).relu_())


def in_place() -> tuple[InPlace, list[Tensor], dict[str, list[Tensor]]]:
    """The model, batches, and the inputs of each layer."""
    torch.manual_seed(2)
    model = InPlace().eval()
    batches = [torch.randn(30, 8) for _ in range(2)]
    inputs = {"a": batches, "b": [x.relu() for x in batches]}
    inputs["c"] = [(model.a(x).relu() + model.b(x.relu())).relu() for x in batches]
    return model, batches, inputs


def _gram(rows: list[Tensor]) -> Tensor:
    return torch.stack([x.t() @ x for x in rows]).sum(0)


@torch.no_grad()
def test_layers_that_read_one_tensor_share_its_sums_only_while_it_is_the_same() -> None:
    model, batches, inputs = in_place()
    found = collect(model, find_sites(model)[0], batches, frozenset({Need.INPUT_GRAM}))
    for name, rows in inputs.items():
        torch.testing.assert_close(found[name][Need.INPUT_GRAM], _gram(rows), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_is_changed_in_place_is_wanted_as_it_was() -> None:
    model, batches, inputs = in_place()
    found: dict[str, Evidence] = {}
    walk(model, find_sites(model)[0], batches, NEEDS, lambda site, evidence: found.update({site.name: evidence}))
    for name, rows in inputs.items():
        wanted = model.get_submodule(name).weight @ _gram(rows)
        torch.testing.assert_close(found[name][Need.WANTED_CROSS], wanted, rtol=1e-3, atol=1e-3)
