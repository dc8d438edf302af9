"""A fault that `make mutate` puts into the running process is there, also in what was frozen before."""

import gc
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with one function, as it is when tests have been collected."""
    monkeypatch.syspath_prepend(str(TOOLS))
    file = tmp_path / "doubled.py"
    file.write_text("def doubled(x):\n    return x * 2\n", "utf-8")
    spec = importlib.util.spec_from_file_location("doubled", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "doubled", module)
    gc.collect()
    gc.freeze()
    return module


def test_a_fault_in_a_frozen_function_is_put_in_place(doubled: ModuleType) -> None:
    from mutants import mutants
    from mutate_place import Place

    source = Path(doubled.__file__).read_bytes()
    place, called = Place(doubled), doubled.doubled
    found = {mutant.becomes: mutant for mutant in mutants(source)}
    assert {"(x + 2)", "3", "(1)", "return None"} == set(found)
    seen = {}
    for becomes, mutant in found.items():
        place.put(mutant.applied(source), mutant.where)
        seen[becomes] = called(5)
    assert seen == {"(x + 2)": 7, "3": 15, "(1)": 5, "return None": None}
