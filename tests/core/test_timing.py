"""Interleaved rounds: their order, their end, their numbers, and the collector left as it was."""

import gc

import pytest

from rarefy.core.timing import Rounds, interleaved

TIMES = Rounds({"a": (4.0, 1.0, 9.0), "b": (2.0, 2.0, 3.0)})


def test_medians_bests_and_ratios_of_rounds() -> None:
    assert (TIMES.median("a"), TIMES.best("a"), TIMES.best("b")) == (4.0, 1.0, 2.0)
    assert TIMES.ratio("b", "a") == 2.0  # of 2, 0.5 and 3
    assert TIMES.ratio("a", "b") == 0.5


def test_every_round_calls_each_once_and_turns_the_order() -> None:
    seen: list[str] = []
    rounds = interleaved({name: lambda name=name: seen.append(name) for name in "ab"}, rounds=3, warmup=2)
    assert "".join(seen) == "abab" + "ab" + "ba" + "ab"
    assert {name: len(times) for name, times in rounds.times.items()} == {"a": 3, "b": 3}


def test_times_are_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("rarefy.core.timing.time.perf_counter", lambda: clock[0])

    def nap() -> None:
        clock[0] += 0.25  # seconds

    rounds = interleaved({"nap": nap, "nothing": lambda: None}, rounds=3, warmup=1)
    assert rounds.times == {"nap": (250.0,) * 3, "nothing": (0.0,) * 3}


def test_what_is_done_before_a_call_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = [0.0], []
    monkeypatch.setattr("rarefy.core.timing.time.perf_counter", lambda: clock[0])

    def wait(name: str, seconds: float) -> None:
        seen.append(name)
        clock[0] += seconds

    calls = {name: lambda name=name: wait(name, 0.25) for name in "ab"}
    rounds = interleaved(calls, rounds=2, warmup=1, before=lambda: wait("-", 8.0))
    assert "".join(seen) == "ab" + "-a-b" + "-b-a"
    assert rounds.times == {"a": (250.0,) * 2, "b": (250.0,) * 2}


def test_it_stops_when_the_seconds_are_over_but_not_before_three_rounds() -> None:
    assert len(interleaved({"a": lambda: None}, rounds=9, warmup=0, seconds=0.0).times["a"]) == 3
    assert len(interleaved({"a": lambda: None}, rounds=9, warmup=0, seconds=600.0).times["a"]) == 9
    assert len(interleaved({"a": lambda: None}, rounds=5, warmup=0).times["a"]) == 5


@pytest.mark.parametrize("collecting", [True, False])
def test_no_garbage_is_collected_meanwhile_and_the_collector_is_put_back(collecting: bool) -> None:
    states: list[bool] = []

    def fail() -> None:
        states.append(gc.isenabled())
        if len(states) == 2:
            raise ValueError("stop")

    was = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(ValueError, match="stop"):
            interleaved({"fail": fail}, warmup=1)
        assert states == [collecting, False]
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if was else gc.disable)()


def test_rounds_count_where_the_machine_was_steady_at_both_ends() -> None:
    said = iter([True, True, False, False, True, True, True])
    seen: list[int] = []
    rounds = interleaved({"a": lambda: seen.append(len(seen))}, rounds=3, warmup=0, steady=lambda: next(said))
    assert len(rounds.times["a"]) == 3  # the first and the last two of six
    assert len(seen) == 6
    assert next(said, None) is None


def test_what_was_taken_before_is_not_kept_for_want_of_better(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("rarefy.core.timing.time.perf_counter", lambda: clock[0])
    slow = iter([4.0] * 5 + [1.0] * 3)

    def nap() -> None:
        clock[0] += next(slow)

    said = iter([False] * 5 + [True] * 4)
    rounds = interleaved({"nap": nap}, rounds=3, warmup=0, seconds=0.5, steady=lambda: next(said))
    assert rounds.times["nap"] == (1000.0,) * 3
