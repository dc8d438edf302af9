"""A fault that `make mutate` puts into the running process is there, also in what was frozen before, and so is each
fault that tools/mutation.toml and tools/mutation_native.toml list."""

import gc
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Gives the module of a source, as it is when tests have been collected."""
    monkeypatch.syspath_prepend(str(TOOLS))

    def from_source(source: str) -> ModuleType:
        file = tmp_path / "doubled.py"
        file.write_text(source, "utf-8")
        spec = importlib.util.spec_from_file_location("doubled", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, "doubled", module)
        gc.collect()
        gc.freeze()
        return module

    return from_source


def given(module: ModuleType, called: Callable[[int], object]) -> dict[tuple[str, str], object]:
    """What a function makes of 5 with each fault of its module: {(where, what is put in): that}"""
    from mutants import mutants
    from mutate_place import Place

    source, place, seen = Path(module.__file__).read_bytes(), Place(module), {}
    for mutant in mutants(source):
        place.put(mutant.applied(source), mutant.where)
        seen[mutant.where, mutant.becomes] = called(5)
    return seen


def test_a_fault_in_a_frozen_function_is_put_in_place(imported: Callable[[str], ModuleType]) -> None:
    module = imported("def doubled(x):\n    return x * 2\n")
    seen = {becomes: value for (_, becomes), value in given(module, module.doubled).items()}
    assert seen == {"(x + 2)": 7, "3": 15, "(1)": 5, "return None": None}


def test_a_fault_in_a_function_inside_another_is_put_in_place(imported: Callable[[str], ModuleType]) -> None:
    function = "def outer(x):\n    def doubled():\n        return x * 2\n    return [doubled()]\n"
    method = "class Holder:\n    @staticmethod\n    " + "    ".join(function.splitlines(keepends=True))
    module = imported(function + method)
    for where, called in (("outer", module.outer), ("Holder.outer", module.Holder.outer)):
        seen = given(module, called)
        inside = {becomes: value for (at, becomes), value in seen.items() if at == f"{where}.doubled"}
        assert inside == {"(x + 2)": [7], "3": [15], "(1)": [5], "return None": [None]}
        assert seen[where, "return None"] is None


def test_the_faults_that_are_listed_stand_in_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    import mutate

    known = mutate.tomllib.loads((TOOLS / "mutation.toml").read_text("utf-8"))
    files = {entry["file"] for entry in known["equivalent"]}
    assert "src/rarefy/core/topk.py" in files
    for file in files:
        found = {mutant.key for mutant in mutate.mutants((TOOLS.parent / file).read_bytes())}
        assert mutate.equivalent(file, known) - found == set()
    native = mutate.tomllib.loads((TOOLS / "mutation_native.toml").read_text("utf-8"))
    assert "native/pack/nibbles.cc" in native
    for source, entry in native.items():
        text = (TOOLS.parent / source).read_text("utf-8")
        assert [fault for fault in entry["faults"] if text.count(fault["was"]) != 1] == []
