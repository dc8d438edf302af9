"""Changes of masks where only the kept values exist: those of the dense runtime, from blocks of rows."""

import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import rarefy
from rarefy.core.topk import keep_top
from rarefy.ops import available
from rarefy.training import SparseMethod
from rarefy.training.clock import Clock
from rarefy.training.drop_grow import DropGrow, DropSmallest
from rarefy.training.growth import GrowRandom, GrowUnfired
from rarefy.training.offers import ByChance, drawn_at
from rarefy.training.starts import RandomStart
from rarefy.training.streamed_growth import largest
from training import loops
from training.runs import run

pytestmark = pytest.mark.skipif(not available(), reason="the native module is not built")

UNFIRED = SparseMethod(RandomStart(), DropGrow(GrowUnfired(), clock=Clock(4), initial=0.5))
RETURNING = SparseMethod(RandomStart(), DropGrow(GrowRandom(0.5), DropSmallest(), Clock(4), initial=0.5))

CASES: list[tuple[Any, dict[str, Any], bool | None]] = [  # method, settings, whether neurons are ablated
    ("rigl", {}, None),
    ("rigl", {"pattern": "fanin"}, False),
    ("rigl", {"pattern": "rowwise"}, False),
    ("rigl", {"pattern": "1:4", "sparsity": None}, None),
    ("rigl", {"pattern": "2:5+", "sparsity": None}, None),
    ("rigl", {"pattern": "t1:4", "sparsity": None}, None),
    ("rigl", {"pattern": "1:2:1", "sparsity": None}, None),
    ("rigl", {"pattern": "block:4x2"}, None),
    ("dst-ee", {"c": 0.01}, None),
    ("dst-ee", {"pattern": "fanin", "c": 0.01}, False),
    ("dst-ee", {"pattern": "block:2x4", "c": 0.01}, None),
    ("srigl", {"pattern": "fanin", "gamma": 0.0}, None),
    ("srigl", {"pattern": "fanin", "gamma": 0.95, "sparsity": 0.9}, True),
    ("set", {}, None),
    ("set", {"spread": 0.0}, None),
    ("set", {"sparsity": 0.2}, None),  # less is free than is dropped: some of it comes back
    ("set", {"pattern": "rowwise"}, None),
    ("set", {"pattern": "fanin"}, False),
    ("set", {"pattern": "1:4", "sparsity": None}, None),
    ("set", {"pattern": "t1:4", "sparsity": None}, None),
    ("set", {"pattern": "block:2x4"}, None),
    ("set", {"pattern": "block:4x4", "sparsity": 0.3}, None),
    (UNFIRED, {}, None),
    (RETURNING, {}, None),
]


def settings_of(method: Any, more: dict[str, Any]) -> dict[str, Any]:
    own = {"every": 4, "fraction": 0.5} if isinstance(method, str) else {}
    return {"optimizer": loops.sgd, "steps": 24, **own, **more}


@pytest.mark.parametrize("task", [loops.mlp, loops.convnet, loops.grouped])
@pytest.mark.parametrize(("method", "more", "ablates"), CASES)
def test_masks_are_chosen_from_blocks_as_from_the_whole(
    method: Any, more: dict[str, Any], ablates: bool | None, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rarefy.training.offers._ENTRIES", 300)  # of some rows, the last block has fewer
    more = settings_of(method, more)
    dense, plain, _, first = run(method, "dense", task, **more)
    still = {name: mask.clone() for name, mask in run(method, "dense", task, **{**more, "steps": 2})[1].masks.items()}
    sparse, packed, _, second = run(method, "sparse", task, **more)
    assert "sparse" in packed.runtime.values()
    assert sparse == pytest.approx(dense, rel=1e-3)
    assert all(torch.equal(mask, packed.masks[name]) for name, mask in plain.masks.items())
    assert not all(torch.equal(mask, packed.masks[name]) for name, mask in still.items())
    for name, value in first.model.state_dict().items():
        assert torch.allclose(value, second.model.state_dict()[name], atol=1e-3), name
    assert torch.equal(plain.run.generator.get_state(), packed.run.generator.get_state())
    assert [w.explored for w in plain.report().weights] == [w.explored for w in packed.report().weights]
    hidden = [mask for name, mask in packed.masks.items() if packed.runtime[name] == "sparse"][:-1]
    assert ablates in (None, any(bool((mask.sum(1) == 0).any()) for mask in hidden))


class Largest(TorchDispatchMode):
    """The entries of the largest tensor that is made; views of others are not."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        there = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if not isinstance(tensor, torch.Tensor) or tensor.untyped_storage().data_ptr() in there:
                continue
            self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize(("method", "more", "ablates"), [*CASES, ("gmp-zhu-gupta", {"begin": 0.0}, None)])
def test_changes_make_no_dense_tensor(
    method: Any, more: dict[str, Any], ablates: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the impostor: gradual pruning opens the layer, and that is seen."""
    monkeypatch.setattr("rarefy.training.offers._ENTRIES", 512)
    more = {**settings_of(method, more), "sparsity": more.get("sparsity", 0.9)}
    if more["sparsity"] in (0.2, 0.3):
        pytest.skip("as many values are kept as a dense weight has")
    if method == "gmp-zhu-gupta":
        more.pop("fraction")
    after = method in ("set", RETURNING, UNFIRED, "gmp-zhu-gupta")  # masks change when the step is done
    more["steps"] = 7 if after else 8  # at the second change: what is made once is there
    _, trainer, _, task = run(method, "sparse", **more)
    before = trainer.masks["2"]
    assert trainer.runtime["2"] == "sparse"
    task.loss(4).backward()
    with Largest() as seen:
        trainer.step()
    assert not torch.equal(before, trainer.masks["2"])
    assert (seen.entries <= 64 * 64 // 2) == (method != "gmp-zhu-gupta"), seen.entries


class Living(TorchDispatchMode):
    """The most bytes of tensors that were alive at a time, of those that are made while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most, self._known = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        there = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in there:
                self._begin(tensor.untyped_storage())
        return out

    def _begin(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@pytest.mark.parametrize("method", ["rigl", "set"])
def test_a_change_takes_little_memory_beside_the_kept_weights(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes for each kept weight of one layer, at the second change: what comes (values, gradient, Adam's memory,
    columns: 20) while some of the old is there, and lists of four bytes. With sorted lists of eight it was 87."""
    monkeypatch.setattr("rarefy.training.offers._ENTRIES", 2**12)
    monkeypatch.setattr("rarefy.training.runtime.places._PART", 2**10)
    _, trainer, _, task = run(
        method, "sparse", lambda: loops.mlp(512), 3 if method == "set" else 4, every=2, sparsity=0.9
    )
    task.loss(4).backward()
    before = trainer.masks["2"]
    with Living() as seen:
        trainer.step()
    kept = int(before.sum())
    assert not torch.equal(before, trainer.masks["2"])
    assert seen.most < 56 * kept, seen.most / kept


def test_what_is_watched_keeps_no_graph() -> None:
    """The graph would hold the index of the layer below, which a change is about to replace."""
    _, _, _, task = run("rigl", "sparse", steps=4, every=4)
    task.loss(4).backward()
    seen = task.model[2].packing.watch.seen
    assert seen and all(x.grad_fn is None and grad.grad_fn is None for _, x, grad in seen)


@pytest.mark.parametrize("shape", [(3, 5), (1, 16), (7, 13), (33, 9), (16, 16), (12, 4)])
def test_numbers_drawn_in_parts_are_those_of_one_draw(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rarefy.training.offers._ENTRIES", 50)
    settings: dict[str, Any] = {"method": "static", "sparsity": 0.5, "seed": 3}
    models = [nn.Linear(shape[1], shape[0]) for _ in range(2)]
    whole, parts = (rarefy.sparse_training(model, loops.adam(model), **settings).run for model in models)
    state = parts.states[0]
    scores = whole.rand(state)
    noise = torch.randn(shape, generator=whole.generator)
    blocks = list(ByChance(parts, state).scored())
    assert torch.equal(torch.cat([block[2] for block in blocks]).view(shape), scores)
    places = (scores.flatten() < 0.6).nonzero().flatten()
    assert torch.equal(drawn_at(parts, state, 2.0)(places), 2.0 * noise.flatten()[places])
    assert torch.equal(whole.generator.get_state(), parts.generator.get_state())


def test_the_largest_gradients_stream_as_one_ranking() -> None:
    generator = torch.Generator().manual_seed(0)
    grad = torch.randint(-4, 5, (12, 10), generator=generator).float()  # many ties
    without = torch.tensor([0, 1, 7, 30, 31, 118])
    flat, rank = grad.flatten(), grad.abs().flatten()
    rank[without] = -1.0
    blocks = ((first, flat[first : first + 30], rank[first : first + 30]) for first in range(0, 120, 30))
    values, places = largest(blocks, 25)
    assert torch.equal(places, keep_top(rank[None], 25)[0].nonzero().flatten())
    assert torch.equal(values, flat[places])
