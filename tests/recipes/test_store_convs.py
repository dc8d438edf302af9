"""Packed convolutions of a saved model lie in a file that processes share, and a file that is wrong is never used."""

import copy
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rarefy
from convnets import Small, native_everywhere, prepared
from rarefy.core.errors import EngineError, FileError, ModelError
from rarefy.engine import Compiled, capture, conv_across, conv_choices, conv_plan, conv_times, shared
from rarefy.engine.conv_region import ConvRegion
from rarefy.engine.fused_conv import FusedConv2d, FusedConv8, FusedConvPool
from rarefy.engine.sparse_conv import SparseConv2d
from rarefy.ops import available
from rarefy.ops.conv_across import lanes
from recipes.damage import damaged

pytestmark = pytest.mark.skipif(not available(), reason="needs the native module")

INT8 = {"weights": "int8", "activations": "int8"}
CHILD = """
import sys, torch, rarefy
from pathlib import Path
from convnets import Small
folder = Path(sys.argv[1])
fast = rarefy.load(folder, model=Small().eval())
torch.save(fast(torch.load(folder / "x")), folder / "y")
print(open("/proc/self/smaps").read())
"""
Prefer = Callable[..., None]


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch, prefer: Prefer) -> Prefer:
    """Native kernels win everywhere, and of whole models the variant that is asked for."""
    native_everywhere(monkeypatch)
    prefer("graph")
    return prefer


class Wide(nn.Module):
    """A grouped, a depthwise and a plain convolution, each with its batch norm, on enough channels for real tiles."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(),
            nn.Conv2d(32, 32, 3, 1, 1, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU6(),
            nn.Conv2d(32, 64, 1), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3, 1, 1, groups=4), nn.SiLU(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> Any:
        return self.parts(x)


def save(
    folder: Path, x: torch.Tensor, kind: type[nn.Module] = Small, density: float = 0.2, **types: Any
) -> tuple[Compiled, torch.Tensor]:
    """The compiled model that was saved, and what it makes of x."""
    torch.manual_seed(0)
    fast = rarefy.compile(prepared(kind(), density), x, **types)
    assert isinstance(fast, Compiled)
    rarefy.save(fast, folder)
    return fast, fast(x)


def load(folder: Path, kind: type[nn.Module] = Small) -> Compiled:
    torch.manual_seed(1)
    back = rarefy.load(folder, model=kind().eval())
    assert isinstance(back, Compiled)
    return back


def fused(model: Compiled) -> list[Any]:
    """What is packed in the graphs of a compiled model."""
    graphs = [m for v in model._variants if isinstance(v.run, nn.Module) for m in v.run.modules()]
    inner = [m.conv if isinstance(m, FusedConvPool) else m for m in graphs]
    return list({id(m): m.packed for m in inner if isinstance(m, FusedConv2d | FusedConv8)}.values())


def apart(model: Compiled) -> list[Any]:
    """What is packed for the layers one by one."""
    layers = [m for m in model.layers.modules() if isinstance(m, SparseConv2d)]
    return [packed for m in layers for _, packed in m.plan.steps if packed is not None]


def files() -> list[Path]:
    return [path for path, _, _ in shared.packed_files()]


def largest() -> Path:
    return max(files(), key=lambda path: path.stat().st_size)


def forbid_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (conv_choices, conv_plan, conv_times, conv_across):
        monkeypatch.setattr(place, "pack_conv", None)
        monkeypatch.setattr(place, "pack_conv8", None, raising=place is not conv_across)


def test_the_graph_is_captured_once_a_load(tmp_path: Path, native: Prefer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first load builds the model twice, in memory of its own and from the file that it has written."""
    x = torch.randn(2, 3, 29, 37)
    _, want = save(tmp_path, x)
    taken, plain = [], capture.capture

    def count(*given: Any) -> Any:
        taken.append(given)
        return plain(*given)

    monkeypatch.setattr(capture, "capture", count)
    for loads in (1, 2):
        model = load(tmp_path)
        assert len(taken) == loads and [v.label for v in model._variants] == ["graph"]
        torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Small, Wide])
@pytest.mark.parametrize("types", [{}, INT8])
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_the_first_load_writes_and_the_next_only_sees(
    kind: type[nn.Module],
    types: dict[str, str],
    density: float,
    tmp_path: Path,
    native: Prefer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, other = torch.randn(2, 3, 29, 37), torch.randn(5, 3, 40, 33)
    data = {"data": [x]} if types else {}
    fast, want = save(tmp_path, x, kind, density, **types, **data)
    monkeypatch.setattr(conv_times, "known_times", None)  # nothing is timed again: what was chosen is in the folder
    first = load(tmp_path, kind)
    written = {path: path.read_bytes() for path in files()}
    with monkeypatch.context() as patch:
        forbid_packing(patch)
        second = load(tmp_path, kind)
    assert {path: path.read_bytes() for path in files()} == written
    assert len(fused(second)) == len(apart(second)) == 4
    for model in (first, second):
        assert [v.label for v in model._variants] == ["graph"]
        assert any(isinstance(m, ConvRegion) for m in model._variants[0].run.modules())
        assert torch.equal(model(x), want)
        assert torch.equal(model(other), fast(other))
    monkeypatch.setenv("RAREFY_CACHE_GB", "0")
    assert torch.equal(load(tmp_path, kind)(x), want)  # packed in memory of its own


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell what is shared")
@pytest.mark.parametrize("types", [{}, INT8])
def test_weights_lie_in_the_mapped_file_and_nowhere_else(
    types: dict[str, str], tmp_path: Path, native: Prefer, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 3, 29, 37)
    torch.save(x, tmp_path / "x")
    _, want = save(tmp_path, x, **types)
    load(tmp_path)
    paths = os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert torch.equal(torch.load(tmp_path / "y"), want)
    block = done.stdout.split(str(largest()))[1:]
    assert len(block) == 1  # the file is mapped, once
    fields = dict(line.split()[:2] for line in block[0].splitlines()[1:20] if ":" in line)
    assert int(fields["Rss:"]) > 0 and int(fields["Anonymous:"]) == 0
    model = load(tmp_path)
    assert model.freed
    assert all(m.source.weight.numel() == 0 for m in model.layers.modules() if isinstance(m, SparseConv2d))
    assert not any(p.dim() == 4 for v in model._variants for p in v.run.parameters())


def test_layers_chosen_one_by_one_are_seen_too(tmp_path: Path, native: Prefer, monkeypatch: pytest.MonkeyPatch) -> None:
    native("layers")
    x = torch.randn(2, 3, 29, 37)
    _, want = save(tmp_path, x)
    load(tmp_path)
    forbid_packing(monkeypatch)
    again = load(tmp_path)
    assert [v.label for v in again._variants] == ["layers"]
    assert torch.equal(again(x), want)


@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("way", ["graph, images across lanes", "graph, 1 images at a time"])
def test_other_ways_through_a_run_come_back(
    way: str, density: float, tmp_path: Path, native: Prefer, monkeypatch: pytest.MonkeyPatch
) -> None:
    native(way)
    x = torch.randn(max(8, lanes()), 3, 29, 37)
    fast, want = save(tmp_path, x, density=density)
    assert fast.choices is not None and fast.choices.runs == (way,)
    monkeypatch.setattr(conv_times, "known_times", None)
    first = load(tmp_path)
    forbid_packing(monkeypatch)
    second = load(tmp_path)
    assert sum(packed.across for packed in fused(second)) == sum(packed.across for packed in fused(fast))
    for model in (first, second):
        assert [v.label for v in model._variants] == [way]
        assert torch.equal(model(x), want)


@pytest.mark.parametrize("how", ["cut", "weights", "index"])
@pytest.mark.parametrize("types", [{}, INT8])
def test_a_damaged_file_is_thrown_away_and_made_again(
    how: str, types: dict[str, str], tmp_path: Path, native: Prefer
) -> None:
    x = torch.randn(2, 3, 29, 37)
    _, want = save(tmp_path, x, **types)
    load(tmp_path)
    path = largest()
    good = path.read_bytes()
    damaged(path, how)
    with pytest.warns(UserWarning, match="packed again"):
        again = load(tmp_path)
    assert torch.equal(again(x), want)
    assert path.read_bytes() == good
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert torch.equal(load(tmp_path)(x), want)


def test_another_convolution_of_the_same_weights_is_packed_anew(tmp_path: Path, native: Prefer) -> None:
    """A class may have changed since: the file is asked for what the graph that is there needs."""
    x = torch.randn(2, 3, 29, 37)
    save(tmp_path, x)
    load(tmp_path)
    changed = Small().eval()
    changed.norm1.eps, changed.conv2.dilation, changed.conv2.padding = 0.1, (2, 2), (2, 2)
    plain = copy.deepcopy(changed)
    with pytest.warns(UserWarning, match="packed again"):
        fast = rarefy.load(tmp_path, model=changed)
    rarefy.load(tmp_path, model=plain, compiled=False)
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-4, atol=1e-4)


def test_for_other_instructions_all_is_chosen_anew(
    tmp_path: Path, native: Prefer, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 3, 29, 37)
    _, want = save(tmp_path, x)
    first = load(tmp_path)
    if all("scalar" in packed.kernel for packed in apart(first)):
        pytest.skip("this CPU has scalar kernels only")
    environment = {**os.environ, "RAREFY_ISA": "scalar", "PYTHONPATH": os.pathsep.join(sys.path)}
    told = (
        "import sys, torch, rarefy; from convnets import Small; from pathlib import Path; f = Path(sys.argv[1]);"
        "m = rarefy.load(f, model=Small().eval()); torch.save(m(torch.load(f / 'x')), f / 'y'); print(m.explain())"
    )
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parents[1])
    torch.save(x, tmp_path / "x")
    command = [sys.executable, "-c", told, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "another CPU, for other instructions" in done.stdout and "avx" not in done.stdout
    torch.testing.assert_close(torch.load(tmp_path / "y"), want, rtol=1e-4, atol=1e-4)
    here = shared.machine()
    before = set(files())
    monkeypatch.setattr(shared, "machine", lambda: {**here, "features": {**here["features"], "isa": "other"}})
    load(tmp_path)
    mine = max(set(files()) - before, key=lambda path: path.stat().st_size)  # another machine, another file
    theirs = max(before, key=lambda path: path.stat().st_size)
    mine.unlink()
    theirs.rename(mine)
    with pytest.warns(UserWarning, match="another model or machine"):
        assert torch.equal(load(tmp_path)(x), want)


def test_a_loaded_model_gives_its_weights_back(tmp_path: Path, native: Prefer) -> None:
    x = torch.randn(2, 3, 29, 37)
    save(tmp_path / "a", x)
    model = load(tmp_path / "a")
    dense = model.to_dense()
    reference = rarefy.load(tmp_path / "a", model=Small().eval(), compiled=False)
    assert not any(isinstance(m, SparseConv2d) for m in dense.modules())
    assert torch.equal(dense(x), reference(x))
    rarefy.save(model, tmp_path / "b")
    assert torch.equal(load(tmp_path / "b")(x), model(x))
    with pytest.raises(EngineError, match="float32 images"):
        model.layers.double()(x.double())
    save(tmp_path / "c", x, **INT8)
    with pytest.raises(ModelError, match="rounded"):
        rarefy.save(load(tmp_path / "c"), tmp_path / "d")


def _json(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    said = json.loads((folder / "engine.json").read_text())
    change(said)
    (folder / "engine.json").write_text(json.dumps(said))


def test_choices_that_make_no_sense_are_refused(tmp_path: Path, native: Prefer) -> None:
    x = torch.randn(lanes() or 8, 3, 29, 37)
    native("graph, images across lanes")
    save(tmp_path, x)
    good = (tmp_path / "engine.json").read_text()

    def refused(change: Callable[[dict[str, Any]], None], error: type[Exception], match: str) -> None:
        (tmp_path / "engine.json").write_text(good)
        _json(tmp_path, change)
        with pytest.raises(error, match=match):
            load(tmp_path)

    steps = json.loads(good)["convs"]["kernels"]["conv1"]
    image, kernel = steps[0]
    eight = next(k.name for k in conv_choices.kernels())
    refused(lambda said: said["convs"]["kernels"].update(nowhere=steps), EngineError, "nowhere")
    refused(lambda said: said["convs"]["kernels"].update(head=steps), EngineError, "no convolution")
    refused(lambda said: said["convs"]["kernels"].update(conv1=[[image, eight]]), EngineError, "8-bit")
    refused(lambda said: said["convs"]["kernels"].update(conv1=[]), FileError, "damaged")
    refused(lambda said: said["convs"]["kernels"].update(conv1=[[[1, -2, 3], kernel]]), FileError, "damaged")
    refused(lambda said: said["convs"]["seen"].pop(), FileError, "damaged")
    refused(lambda said: said.update(runs=["Graph!"]), FileError, "damaged")
    refused(lambda said: said["convs"]["seen"][0].update(across={}), EngineError, "does not fit")
    names = list(json.loads(good)["convs"]["seen"][0]["across"])
    wrong = dict.fromkeys(names, conv_choices.conv_kernels.winograd_kernels()[-1].name)
    refused(lambda said: said["convs"]["seen"][0].update(across=wrong), EngineError, "does not fit")
