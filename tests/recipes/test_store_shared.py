"""Packed weights of a saved model lie in memory once for all processes, and a file that is wrong is never used."""

import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import rarefy
from rarefy.cli.main import app
from rarefy.core.errors import FileError
from rarefy.engine import Compiled, shared
from rarefy.engine.sparse_linear import SparseLinear
from rarefy.ops import PackedWeight, available
from recipes.damage import damaged

if not available():
    pytest.skip("needs the native module", allow_module_level=True)

WIDTH = 1024
CHILD = """
import sys, torch, rarefy
from torch import nn
from pathlib import Path
folder, width = Path(sys.argv[1]), int(sys.argv[2])
model = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)).eval()
fast = rarefy.load(folder, model=model)
torch.save(fast(torch.load(folder / "x")), folder / "y")
print(open("/proc/self/smaps").read())
"""


def network(seed: int = 0, width: int = WIDTH) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)).eval()


@pytest.fixture
def saved(tmp_path: Path, prefer: Callable[..., None]) -> Path:
    """A folder with a compiled model whose layers are all sparse."""
    return save(tmp_path / "model", prefer)


def save(folder: Path, prefer: Callable[..., None], width: int = WIDTH, **types: Any) -> Path:
    prefer("layers")
    model = network(width=width)
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    rarefy.save(rarefy.compile(model, torch.randn(16, width), **types), folder)
    return folder


def load(folder: Path, width: int = WIDTH) -> Compiled:
    back = rarefy.load(folder, model=network(1, width))
    assert isinstance(back, Compiled)
    return back


def packs(model: Compiled) -> list[PackedWeight]:
    layers = [m for m in model.modules() if isinstance(m, SparseLinear)]
    return [packed for m in layers for _, packed in m.plan.steps if packed is not None]


def the_file() -> Path:
    (path,) = (path for path, _, _ in shared.packed_files())
    return path


def mapping(smaps: str, path: Path) -> dict[str, int]:
    """KiB by field of the one mapping of a file, as /proc/PID/smaps has them."""
    blocks = smaps.split(str(path))
    assert len(blocks) == 2, "the file is mapped once"
    lines = [line.split() for line in blocks[1].splitlines()[1:]]
    fields: dict[str, int] = {}
    for name, value, *_ in lines:
        if not name.endswith(":") or name[:-1] in fields:
            break  # the next mapping
        if value.isdigit():
            fields[name[:-1]] = int(value)
    return fields


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell what is shared")
def test_a_second_process_shares_the_pages_and_computes_the_same_bits(saved: Path) -> None:
    torch.save(torch.randn(16, WIDTH), saved / "x")
    first = load(saved)
    size = sum(packed.nbytes for packed in packs(first))
    assert size > 1 << 20
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, str(saved), str(WIDTH)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert torch.equal(torch.load(saved / "y"), first(torch.load(saved / "x")))
    for smaps in (done.stdout, Path("/proc/self/smaps").read_text()):
        found = mapping(smaps, the_file())
        assert found["Rss"] * 1024 >= size  # all of it is there
        assert found["Anonymous"] == 0  # and none of it a copy
    theirs = mapping(done.stdout, the_file())
    assert theirs["Shared_Clean"] + theirs["Shared_Dirty"] == theirs["Rss"]  # dirty: not on the disk yet
    assert theirs["Private_Clean"] == theirs["Private_Dirty"] == 0
    assert theirs["Pss"] * 2 <= theirs["Rss"] + 8


@pytest.mark.parametrize(
    "types", [{}, {"weights": "bf16"}, {"weights": "int8", "activations": "int8"}, {"weights": "int4"}]
)
def test_the_first_load_writes_and_the_next_only_sees(
    types: dict[str, str], tmp_path: Path, prefer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, x = save(tmp_path, prefer, 64, **types), torch.randn(16, 64)
    first = load(folder, 64)
    written = the_file().read_bytes()
    monkeypatch.setattr(shared, "pack", None)  # the second packs nothing
    second = load(folder, 64)
    assert len(packs(second)) == 2
    assert torch.equal(first(x), second(x))
    assert the_file().read_bytes() == written
    monkeypatch.undo()
    monkeypatch.setenv("RAREFY_CACHE_GB", "0")
    assert torch.equal(load(folder, 64)(x), second(x))  # packed in memory of its own
    for packed in packs(second):
        back = pickle.loads(pickle.dumps(packed))
        assert torch.equal(back.to_dense(), packed.to_dense())
        assert packed.quantized is None  # nothing is held beside the packed form


@pytest.mark.parametrize("how", ["cut", "empty", "weights", "index", "head"])
def test_a_damaged_file_is_thrown_away_and_made_again(how: str, saved: Path) -> None:
    x = torch.randn(16, WIDTH)
    expected, path = load(saved)(x), the_file()
    good = path.read_bytes()
    damaged(path, how)
    with pytest.warns(UserWarning, match="packed again"):
        again = load(saved)
    assert torch.equal(again(x), expected)
    assert the_file().read_bytes() == good
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(load(saved)(x), expected)


def test_a_file_of_another_machine_is_never_used(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(saved)
    theirs = the_file()
    here = shared.machine()
    monkeypatch.setattr(shared, "machine", lambda: {**here, "features": {**here["features"], "isa": "avx2"}})
    load(saved)
    (mine,) = (path for path, _, _ in shared.packed_files() if path != theirs)
    mine.unlink()
    theirs.rename(mine)  # even under the right name
    with pytest.warns(UserWarning, match="another model or machine"):
        load(saved)


def test_kernels_beyond_the_cap_are_never_seen(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if all("scalar" in packed.kernel for packed in packs(load(saved))):
        pytest.skip("this CPU has scalar kernels only")
    monkeypatch.setenv("RAREFY_ISA", "scalar")
    monkeypatch.setattr("rarefy.engine.choices.Choices.why_not_here", lambda _: None)
    with pytest.warns(UserWarning, match="needs"), pytest.raises(ValueError, match="RAREFY_ISA"):
        load(saved)


def test_other_weights_get_another_file(saved: Path, prefer: Callable[..., None]) -> None:
    before = load(saved)
    x = torch.randn(16, WIDTH)
    expected = before(x)
    prefer("layers")
    other = network(5)
    rarefy.prune(other, "magnitude", sparsity=0.8, measure=False)
    rarefy.save(rarefy.compile(other, x), saved)
    after = load(saved)
    assert len(shared.packed_files()) == 2
    torch.testing.assert_close(after(x), other(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(before(x), expected)


def test_without_a_folder_to_write_each_packs_for_itself(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(16, WIDTH)
    expected = load(saved)(x)
    (tmp_path / "occupied").write_text("a file, where a folder should be made")
    monkeypatch.setenv("RAREFY_CACHE_DIR", str(tmp_path / "occupied"))
    assert torch.equal(load(saved)(x), expected)
    assert shared.packed_files() == []


def test_what_was_used_longest_ago_goes_first(
    tmp_path: Path, prefer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [save(tmp_path / str(width), prefer, width) for width in (64, 80, 72)]
    used = {}
    for folder in folders[:2]:
        before = {path for path, _, _ in shared.packed_files()}
        load(folder, int(folder.name))
        (used[folder.name],) = {path for path, _, _ in shared.packed_files()} - before
    os.utime(used["64"], (1, 1))
    os.utime(used["80"], (2, 2))
    load(folders[0], 64)  # used again
    room = sum(nbytes for _, nbytes, _ in shared.packed_files())
    monkeypatch.setenv("RAREFY_CACHE_GB", str((room + 1000) / 1e9))
    load(folders[2], 72)
    left = {path for path, _, _ in shared.packed_files()}
    assert used["80"] not in left and used["64"] in left and len(left) == 2
    monkeypatch.setenv("RAREFY_CACHE_GB", "0.000001")  # nothing fits: nothing is written, nothing removed
    shared.clear_packed()
    load(folders[2], 72)
    assert shared.packed_files() == []
    for wrong in ("much", "-1", "nan"):
        monkeypatch.setenv("RAREFY_CACHE_GB", wrong)
        with pytest.raises(FileError, match="RAREFY_CACHE_GB"):
            load(folders[2], 72)


def test_the_command_lists_and_clears_them(saved: Path) -> None:
    used, run = load(saved), CliRunner()
    x = torch.randn(16, WIDTH)
    expected = used(x)
    assert the_file().name in run.invoke(app, ["cache"]).output.replace("\n", "")
    left = the_file().with_name(f".{the_file().name}.x.partial")
    left.mkdir()
    assert "1 files of packed weights removed" in run.invoke(app, ["cache", "--clear"]).output
    assert shared.packed_files() == [] and not left.exists()
    assert torch.equal(used(x), expected)  # whoever has them mapped keeps them


def test_weights_without_a_fingerprint_are_packed_in_memory(saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = saved / "model.safetensors"
    save_file(load_file(path), path)  # as another program would: without a manifest
    assert json.loads((saved / "engine.json").read_text())["kernels"]
    x = torch.randn(16, WIDTH)
    assert load(saved)(x).shape == x.shape
    assert shared.packed_files() == []
