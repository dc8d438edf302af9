"""A mistake is one line that says what to do; nothing is written."""

import sys

import pytest


def _refused(done, *words):
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    said = done.stderr.strip()
    assert said.startswith("error: ")
    assert "\n" not in said
    assert "Traceback" not in done.output
    for word in words:
        assert word in said


@pytest.fixture
def ask(run, bert_folder, texts, tmp_path):
    """Runs compress with one thing changed."""

    def call(**changes):
        asked = {"model": bert_folder, "sparsity": 0.7, "data": texts, "out": tmp_path / "out"} | changes
        model = asked.pop("model")
        flags = [part for name, value in asked.items() for part in (f"--{name}", value)]
        done = run("compress", model, *flags)
        assert not (tmp_path / "out" / "model.safetensors").exists()
        assert not (tmp_path / "out" / "report.json").exists()
        return done

    return call


def test_a_missing_model_folder(ask, tmp_path):
    _refused(ask(model=tmp_path / "none"), "no such folder")


def test_a_speed_up_and_a_sparsity_at_once(ask):
    _refused(ask(**{"target-speedup": 2.0}), "--target-speedup", "--sparsity")


def test_a_folder_without_a_model(ask, tmp_path):
    _refused(ask(model=tmp_path), "config.json")


def test_an_unknown_method_suggests_the_nearest(ask):
    _refused(ask(method="sparsgpt"), "did you mean 'sparsegpt'")


def test_an_unknown_pattern_and_allocation(ask):
    _refused(ask(pattern="2;4"), "'2:4'")
    _refused(ask(allocation="unifrom"), "'uniform'")


@pytest.mark.parametrize(
    ("sparsity", "word"), [(1.2, "[0, 1)"), (-0.1, "[0, 1)"), (70, "did you mean 0.7"), (1, "[0, 1)")]
)
def test_a_sparsity_out_of_range(ask, sparsity, word):
    _refused(ask(sparsity=sparsity), word)


def test_a_missing_sparsity(run, bert_folder, texts, tmp_path):
    _refused(run("compress", bert_folder, "--data", texts, "--out", tmp_path / "o"), "sparsity: missing")


def test_empty_and_missing_texts(ask, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    _refused(ask(data=tmp_path / "empty.txt"), "has no text")
    _refused(ask(data=tmp_path / "none.txt"), "does not exist")


def test_a_pattern_that_does_not_divide_names_the_layer(ask):
    _refused(ask(pattern="block:5x1"), "encoder.layer.0", "64 x 64")


def test_an_ignore_that_matches_nothing(ask):
    _refused(ask(ignore="nothing.here"), "matches no prunable layer")


def test_an_unknown_rival(ask):
    _refused(ask(against="onnxruntim"), "'onnxruntime'")


def test_an_out_folder_that_cannot_be_written(ask, tmp_path):
    (tmp_path / "file").write_text("mine")
    _refused(ask(out=tmp_path / "file"), "choose another folder")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("model", "word"),
    [("no_such_module_here:make", "cannot be imported"), ("json:nothing", "has no"), ("json:dumps", "")],
)
def test_a_factory_that_gives_no_model(ask, model, word):
    done = ask(model=model)
    assert done.exit_code != 0
    if word:
        _refused(done, word)


def test_a_factory_of_another_type(ask):
    _refused(ask(model="collections:OrderedDict"), "not an nn.Module")


def test_bench_and_report_of_other_folders(run, tmp_path):
    _refused(run("bench", tmp_path / "none"), "no such folder")
    _refused(run("bench", tmp_path), "config.json")
    _refused(run("report", tmp_path), "rarefy compress")


@pytest.mark.parametrize("shape", ["16", "0x4", "ax4", "4x"])
def test_a_shape_that_is_none(run, compressed, shape):
    _refused(run("bench", compressed[0], "--shape", shape), "16x128")


def test_a_pickled_array_is_not_unpickled(run, tmp_path, monkeypatch):
    import numpy

    (tmp_path / "net_of_mistakes.py").write_text("from torch import nn\nmake = lambda: nn.Linear(4, 4)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    numpy.save(tmp_path / "x.npy", numpy.array([print], dtype=object), allow_pickle=True)
    done = run(
        "compress", "net_of_mistakes:make", "--sparsity", 0.5, "--data", tmp_path / "x.npy", "--out", tmp_path / "o"
    )
    _refused(done, "x.npy")
    sys.modules.pop("net_of_mistakes", None)
