"""methods, doctor, --version and --help."""

import json
import os
import subprocess
import sys

import pytest
import torch

import rarefy
from needs import needs_native
from rarefy.core.registry import entries
from rarefy.engine.cache import Record, TimingCache
from rarefy.ops import available
from rarefy.recipes.examine import slow


def test_methods_lists_every_registered_thing(run):
    found = json.loads(run("methods", "--json").output)
    assert {(e["role"], e["id"]) for e in found} == {(e.role, e.id) for e in entries()}
    by_id = {e["id"]: e for e in found if e["role"] == "method"}
    assert by_id["wanda"]["source"].startswith("arXiv:2306.11695") or "2306.11695" in by_id["wanda"]["source"]
    assert by_id["sparsegpt"]["family"] == "pruning"
    assert all(e["summary"] and e["protocols"] for e in found)


def test_methods_of_one_role_in_words(run):
    printed = run("methods", "--role", "method").output
    assert "wanda" in printed
    assert "2306.11695" in printed
    assert "owl" not in printed.split()
    assert run("methods", "--role", "methods").exit_code == 2


def test_doctor_tells_what_is_used(run):
    found = json.loads(run("doctor", "--json").output)
    assert found["torch"] == torch.__version__
    assert found["torch threads"] == torch.get_num_threads()
    assert found["rivals"]["torch"] == "yes"
    assert found["denormals flushed"]["rarefy's kernels"] is available()
    assert isinstance(found["slow"], list)
    assert found["cpu"]
    assert found["timing cache"]["place"].startswith(os.environ["RAREFY_CACHE_DIR"])


def test_cache_tells_its_place_and_forgets(run):
    TimingCache().put("a key", Record({"dense": 1.0}, None, frozenset()))
    assert "cells: 1" in run("cache").output
    assert "1 records forgotten" in run("cache", "--clear").output
    assert "cells: 0" in run("cache").output
    assert run("cache", "--clear", "--fill").exit_code == 2


def _doctor(**environment):
    done = subprocess.run(
        [sys.executable, "-m", "rarefy.cli.main", "doctor", "--json"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_doctor_says_what_will_be_slow():
    without = _doctor(RAREFY_NATIVE="0")
    assert "RAREFY_NATIVE=0" in " ".join(without["slow"])
    assert without["denormals flushed"]["rarefy's kernels"] is False  # there are none


@needs_native
def test_doctor_says_that_an_instruction_set_is_capped():
    assert "RAREFY_ISA=scalar caps it" in " ".join(_doctor(RAREFY_ISA="scalar")["slow"])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"torch threads": 64}, "64 threads on 4 usable cores"),
        ({"torch threads": 1}, "1 of 4 usable cores"),
        ({"openmp runtimes": ["/a/libgomp.so.1", "/b/libgomp.so.1"]}, "2 OpenMP runtimes"),
        ({"denormals flushed": {"torch's worker threads": False}}, "denormals"),
        ({"instruction set in force": "avx2"}, "no AVX-512"),
    ],
)
def test_each_cause_of_slowness_is_named(change, word, monkeypatch):
    monkeypatch.delenv("RAREFY_ISA", raising=False)
    well = {
        "instruction set in force": "avx512",
        "torch threads": 4,
        "cores usable": 4,
        "openmp runtimes": ["libgomp.so.1"],
        "denormals flushed": {"torch's worker threads": None},
    }
    assert slow(well, None) == []
    assert slow(well | {"openmp runtimes": None}, None) == []
    assert len(slow(well | change, None)) == 1
    assert word in slow(well | change, None)[0]


@pytest.mark.parametrize("level", ["avx512", "vnni", "vbmi2", "amx"])
def test_no_level_from_avx512_on_is_called_slow_unless_it_is_capped(level, monkeypatch):
    monkeypatch.delenv("RAREFY_ISA", raising=False)
    well = {
        "instruction set in force": level,
        "torch threads": 1,
        "cores usable": 1,
        "openmp runtimes": [],
        "denormals flushed": {"torch's worker threads": None},
    }
    assert slow(well, None) == []
    monkeypatch.setenv("RAREFY_ISA", "vnni")
    assert ("RAREFY_ISA=vnni caps it" in " ".join(slow(well, None))) == (level == "vnni")


def test_doctor_names_layers_that_stay_dense_and_denormal_weights(run, compressed, tmp_path):
    said = json.loads(run("doctor", compressed[0], "--json").output)
    assert any("pooler" in one["layer"] for one in said["model"]["stay dense"])
    assert any("no zeros to skip" in line and "pooler" in line for line in said["slow"])
    assert said["model"]["denormal weights"] == {}
    model = rarefy.load(compressed[0], compiled=False)
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight[0, :3] = 1e-40
    rarefy.save(model, tmp_path / "tiny", carry=compressed[0])
    said = json.loads(run("doctor", tmp_path / "tiny", "--json").output)
    assert said["model"]["denormal weights"] == {"encoder.layer.0.output.dense.weight": 3}
    assert any("3 weights are denormal" in line for line in said["slow"])
    assert "of them dense" in run("doctor", tmp_path / "tiny").output


def test_the_command_line_starts_without_torch():
    code = "import sys, rarefy.cli.main; print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_and_help(run):
    assert run("--version").output.startswith("rarefy")
    for command in ("demo", "compress", "bench", "report", "methods", "doctor", "cache", "serve"):
        done = run(command, "--help")
        assert done.exit_code == 0
        assert f"rarefy {command}" in done.output  # an example
