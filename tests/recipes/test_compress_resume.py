"""A compression that was broken off goes on from its last finished stage to the very bytes of a calm one."""

import copy
import errno
import os
import random
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from rarefy.core.errors import FileError
from rarefy.pruning import PruneReport
from rarefy.recipes import compress as main_job
from rarefy.recipes import compress_state, html
from rarefy.recipes.compress import compress
from rarefy.recipes.compress_job import Job
from rarefy.recipes.compress_resume import WORK, opened
from rarefy.recipes.measure import prune
from rarefy.recipes.report_file import read_report
from rarefy.recipes.stages import Silent
from rarefy.recipes.task import batch_task

JOB = Job("magnitude", 0.8, recover=12, rounds=1)
RECOVERY = "recovering after magnitude"


class Crash(BaseException):
    """What no handler in the library may swallow."""


class Listener(Silent):
    """Notes what it is told; breaks off where the stage `at` has done `after` units (0: where it is opened)."""

    def __init__(self, at=None, after=0):
        self.at, self.after = at, after
        self.opened, self.said = [], []

    @contextmanager
    def stage(self, title, total):
        self.opened.append(title)
        done = 0

        def advance(more):
            nonlocal done
            done += more
            self.check(title, done)

        self.check(title, 0)
        yield advance

    def check(self, title, done):
        if title == self.at and done >= self.after:
            raise Crash

    def say(self, text):
        self.said.append(text)


@pytest.fixture(autouse=True, scope="module")
def no_plots():
    """What the page looks like is tested elsewhere, and takes as long as all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "page", lambda data: "page")
        yield


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*[nn.Sequential(nn.Linear(24, 24), nn.GELU()) for _ in range(3)]).eval()


def task(seed=0, data=1):
    generator = torch.Generator().manual_seed(data)
    return batch_task(network(seed), [torch.randn(8, 24, generator=generator) for _ in range(8)])


def model_in(folder):
    return (folder / "model.safetensors").read_bytes()


def run(folder, stages=None, job=JOB, **given):
    return compress(task(**given), job, folder, stages or Listener(), "net", every=0.0)


def broken_off(folder, at=RECOVERY, after=7, job=JOB):
    with pytest.raises(Crash):
        run(folder, Listener(at, after), job)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm")
    run(folder)
    return folder


STOPS = [  # where it breaks off, what is said of it, the first stage of the second run
    ("outputs of the dense model", 0, [], "outputs of the dense model"),
    ("pruning with magnitude", 0, ["going on after measuring the dense model"], "pruning with magnitude"),
    ("quality after pruning", 0, ["going on after pruning"], "quality after pruning"),
    (RECOVERY, 0, ["going on after pruning"], RECOVERY),
    (RECOVERY, 7, ["going on after pruning, from step 6 of recovery"], RECOVERY),
    ("quality after recovery", 0, ["going on after recovery"], "quality after recovery"),
    ("saving and reloading", 0, ["going on after recovery"], "saving and reloading"),
    ("saving and reloading", 1, ["going on after recovery"], "saving and reloading"),
    ("compiling, timing kernels by layer", 0, ["going on after saving"], "compiling, timing kernels by layer"),
]


@pytest.mark.parametrize(("at", "after", "said", "first"), STOPS, ids=lambda value: str(value) if value else "0")
def test_it_goes_on_where_it_was(at, after, said, first, calm, tmp_path):
    broken_off(tmp_path, at, after)
    listener = Listener()
    report = run(tmp_path, listener)
    assert (listener.said, listener.opened[0]) == (said, first)
    assert model_in(tmp_path) == model_in(calm)
    assert report["runs"] == 2 and report["recovery"]["steps"] == len(report["recovery"]["losses"]) == 12
    known, expected = read_report(tmp_path), read_report(calm)
    assert known["recovery"]["losses"] == expected["recovery"]["losses"]
    assert known["quality"] == expected["quality"]
    assert [{**s, "seconds": 0} for s in known["prune"]["sites"]] == [
        {**s, "seconds": 0} for s in expected["prune"]["sites"]
    ]
    assert not (tmp_path / WORK).exists()


def test_pruning_and_recovery_are_not_done_a_second_time(calm, tmp_path, monkeypatch):
    broken_off(tmp_path, "saving and reloading", 0)

    def never(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr(main_job, "prune", never)
    monkeypatch.setattr(main_job, "recover", never)
    run(tmp_path)
    assert model_in(tmp_path) == model_in(calm)


def test_a_run_that_was_broken_off_after_its_report_measures_nothing_again(tmp_path, monkeypatch):
    monkeypatch.setattr(main_job, "write_report", lambda report, folder: (_ for _ in ()).throw(Crash))
    with pytest.raises(Crash):
        run(tmp_path)
    monkeypatch.undo()
    listener = Listener()
    report = run(tmp_path, listener)
    assert (listener.said, listener.opened) == (["going on after timing"], [])
    assert read_report(tmp_path)["bench"] == report["bench"]


def test_other_rivals_are_timed_beside_the_model_that_is_there(tmp_path):
    broken_off(tmp_path, "timing beside the others", 0)
    listener = Listener()
    report = run(tmp_path, listener, Job("magnitude", 0.8, recover=12, rounds=2))
    assert listener.opened == ["compiling, timing kernels by layer", "timing beside the others"]
    assert report["job"]["rounds"] == 2


def test_without_recovery(tmp_path):
    job = Job("wanda", 0.5, rounds=1)
    run(tmp_path / "calm", job=job)
    broken_off(tmp_path / "killed", "quality after pruning", 0, job)
    report = run(tmp_path / "killed", job=job)
    assert model_in(tmp_path / "killed") == model_in(tmp_path / "calm")
    assert report["recovery"] is None and set(report["quality"]) == {"pruned"}


@pytest.mark.parametrize("seed", range(2))
def test_a_crash_at_any_rename(seed, calm, tmp_path, monkeypatch):
    rng, real, left, crashes = random.Random(seed), os.replace, [0], 0

    def counted(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise Crash
        return real(*args, **kwargs)

    monkeypatch.setattr(os, "replace", counted)
    while True:
        left[0] = rng.randint(3, 8)
        try:
            run(tmp_path)
            break
        except Crash:
            crashes += 1
    assert crashes > 3
    assert model_in(tmp_path) == model_in(calm)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in calm.iterdir())


@pytest.mark.parametrize(
    ("job", "given", "says"),
    [
        (Job("magnitude", 0.7, recover=12, rounds=1), {}, "sparsity was 0.8, now 0.7"),
        (Job("random", 0.8, recover=12, rounds=1), {}, 'method was "magnitude", now "random"'),
        (Job("magnitude", 0.8, recover=13, rounds=1), {}, "recover was 12, now 13"),
        (Job("magnitude", 0.8, recover=12, rounds=1, seed=1), {}, "seed was 0, now 1"),
        (JOB, {"seed": 5}, "model was Sequential "),
        (JOB, {"data": 5}, "data was 6 batches, "),
    ],
    ids=["sparsity", "method", "steps", "seed", "model", "data"],
)
def test_another_job_begins_anew_and_says_so(job, given, says, tmp_path):
    run(tmp_path / "calm", job=job, **given)
    broken_off(tmp_path / "killed")
    listener = Listener()
    report = run(tmp_path / "killed", listener, job, **given)
    assert len(listener.said) == 1 and listener.said[0].endswith("; beginning anew")
    assert f"is of another job: {says}" in listener.said[0]
    assert listener.opened[0] == "outputs of the dense model"
    assert model_in(tmp_path / "killed") == model_in(tmp_path / "calm")
    assert report["runs"] == 1


def test_another_code_begins_anew(tmp_path, monkeypatch):
    from rarefy.recipes import compress_job

    broken_off(tmp_path)
    monkeypatch.setattr(compress_job, "code_digest", lambda folders: "other")
    listener = Listener()
    run(tmp_path, listener)
    assert "is of another job: rarefy was" in listener.said[0]


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-2] ^= 4
    path.write_bytes(bytes(content))


DAMAGES = {
    "flipped": _flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "of something else": lambda path: path.write_bytes(b'{"a": [1, 2]}'),
    "lost": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("journal.json", "outputs of the dense model"),
        ("dense.safetensors", "outputs of the dense model"),
        ("pruned.safetensors", "pruning with magnitude"),
        ("recovery.safetensors", RECOVERY),
    ],
)
def test_damaged_state_is_done_again(name, first, damage, calm, tmp_path):
    broken_off(tmp_path)
    DAMAGES[damage](tmp_path / WORK / name)
    listener = Listener()
    run(tmp_path, listener)
    assert listener.opened[0] == first
    quiet = damage == "lost" and name in ("journal.json", "recovery.safetensors")  # as if it had never been there
    assert quiet or f"{WORK}/{name}" in listener.said[0]
    assert model_in(tmp_path) == model_in(calm)


def test_a_damaged_recovered_model_is_made_again(calm, tmp_path):
    broken_off(tmp_path, "quality after recovery", 0)
    _flip(tmp_path / WORK / "recovered.safetensors")
    listener = Listener()
    run(tmp_path, listener)
    assert "recovered.safetensors" in listener.said[0] and listener.opened[0] == "pruning with magnitude"
    assert model_in(tmp_path) == model_in(calm)


def test_a_damaged_saved_model_is_saved_again(calm, tmp_path):
    broken_off(tmp_path, "compiling, timing kernels by layer", 0)
    _flip(tmp_path / "model.safetensors")
    listener = Listener()
    run(tmp_path, listener)
    assert listener.opened[0] == "saving and reloading"
    assert model_in(tmp_path) == model_in(calm)


@pytest.mark.parametrize("name", ["pruned.safetensors", "recovery.safetensors"])
def test_tensors_of_another_job_are_not_used(name, calm, tmp_path):
    broken_off(tmp_path / "other", job=Job("magnitude", 0.6, recover=12, rounds=1))
    broken_off(tmp_path / "own")
    (tmp_path / "own" / WORK / name).write_bytes((tmp_path / "other" / WORK / name).read_bytes())
    listener = Listener()
    run(tmp_path / "own", listener)
    assert f"{WORK}/{name}: is " in listener.said[0]
    assert model_in(tmp_path / "own") == model_in(calm)


def test_two_at_once_are_refused(tmp_path):
    pytest.importorskip("fcntl")

    class Again(Listener):
        def check(self, title, done):
            run(tmp_path)

    with pytest.raises(FileError, match="another process is compressing into it"):
        run(tmp_path, Again())


def test_a_disk_without_room_for_state_costs_a_line_and_not_the_job(calm, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise FileError("could not be written") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compress_state, "write_kept", full)
    monkeypatch.setattr(compress_state, "replace_file", full)
    listener = Listener()
    run(tmp_path, listener)
    assert len(listener.said) == 1 and "the work goes on" in listener.said[0]
    assert model_in(tmp_path) == model_in(calm)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / WORK).write_text("")
    with pytest.raises(FileError, match="choose another folder"):
        run(tmp_path)


def test_state_takes_less_than_the_model_when_most_weights_are_zero(tmp_path):
    torch.manual_seed(0)
    wide = nn.Sequential(*[nn.Sequential(nn.Linear(300, 300), nn.GELU()) for _ in range(3)]).eval()
    data = batch_task(wide, [torch.randn(4, 300) for _ in range(4)])
    with pytest.raises(Crash):
        compress(data, JOB, tmp_path, Listener("quality after recovery"), "net", every=0.0)
    assert _bytes(tmp_path / WORK) < 0.4 * 4 * 3 * 300 * 301
    with pytest.raises(Crash):
        compress(data, Job("magnitude", 0.8, recover=9), tmp_path, Listener(RECOVERY, 7), "net", every=0.0)
    assert _bytes(tmp_path / WORK) < 1.1 * 4 * 3 * 300 * 301


def _bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_states_of_recovery_are_as_rare_as_they_are_dear(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(compress_state.time, "perf_counter", lambda: now[0])
    state = compress_state.State(tmp_path, prints={"pruned": "x"})
    monkeypatch.setattr(
        compress_state, "write_kept", lambda *given: (written.append(now[0]), now.__setitem__(0, now[0] + 3))
    )
    found = compress_state.DistillState((), 0.0, {}, {}, torch.get_rng_state())
    for _ in range(300):
        now[0] += 1.0
        state.keep(lambda: found)
    assert written == [20.0, 143.0, 266.0]  # 20 s, then 40 times the 3 s that one takes


def test_the_generator_goes_on_where_it_was_and_the_caller_s_is_left_alone(tmp_path):
    drawn = []

    def work():
        with opened(tmp_path, {"a": "b"}, Silent(), None) as state:
            if not state.done:
                torch.rand(5)
                state.commit("dense", None, {"vectors": torch.zeros(1)})
            drawn.append(torch.rand(1))
            if len(drawn) == 1:
                raise Crash

    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(Crash):
        work()
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(4)
    work()
    assert drawn[0].equal(drawn[1])


def test_what_a_model_became_comes_back_with_its_grid_and_its_signs(tmp_path):
    from rarefy.core.grid import QuantizeSpec, codes_of
    from rarefy.recipes.compress_file import read_kept, write_kept
    from rarefy.recipes.compress_model import changes, put_back

    model = network()
    model[2][0].weight = model[1][0].weight  # tied
    dense, again = copy.deepcopy(model), copy.deepcopy(model)
    data = [torch.randn(8, 24, generator=torch.Generator().manual_seed(0))]
    prune(model, "sparsegpt", sparsity=0.5, quantize=QuantizeSpec(bits=4), data=data, measure=False)
    with torch.no_grad():
        model[0][0].bias[3] = -0.0
    found = changes(model, dense)
    assert {"state:0.0.weight", "state:1.0.weight", "state:0.0.bias"} <= set(found) and "state:1.0.bias" not in found
    fingerprint = write_kept(tmp_path / "a.safetensors", found)
    kept = read_kept(tmp_path / "a.safetensors")
    assert kept.fingerprint == fingerprint
    put_back(again, kept.exact())
    for name, value in model.state_dict().items():
        assert value.view(torch.int32).equal(again.state_dict()[name].view(torch.int32)), name
    assert codes_of(again[0][0]).values.equal(codes_of(model[0][0]).values)


def test_a_report_comes_back_from_its_json():
    import json

    report = prune(network(), "magnitude", sparsity=0.5)
    said = report.to_dict()
    assert PruneReport.from_dict(json.loads(json.dumps(said))).to_dict() == said
