"""Which two layouts a weight gets, from times alone."""

import math

from hypothesis import given
from hypothesis import strategies as st

from rarefy.engine.decoder.layouts import two_layouts

INF = math.inf


def test_one_layout_where_it_is_nowhere_far_behind():
    at = {1: {"a": 1.0, "b": 1.2}, 8: {"a": 2.0, "b": 1.8}, 64: {"a": 6.0, "b": 5.0}}
    assert two_layouts(at) == ("a", "a")


def test_a_second_one_where_the_first_is_far_behind():
    at = {1: {"a": 1.0, "b": 3.0}, 64: {"a": 9.0, "b": 5.0}}
    assert two_layouts(at) == ("a", "b")


def test_the_longest_prompt_alone_does_not_choose():
    """A layout in tiles of 64 tokens is best at 64 and takes as long for 17: another is near both."""
    at = {
        1: {"step": 1.0, "few": 1.6},
        17: {"few": 2.7, "tiles": 9.8},
        64: {"few": 10.0, "tiles": 9.0},
    }
    assert two_layouts(at) == ("step", "few")


def test_what_leads_a_step_by_noise_does_not_lead():
    at = {1: {"step": 1.0, "few": 1.02}, 16: {"few": 2.0, "tiles": 9.0}, 512: {"few": 9.0, "tiles": 4.0}}
    assert two_layouts(at) == ("few", "tiles")
    at[1]["few"] = 1.1
    assert two_layouts(at) == ("step", "few")


def test_torch_runs_beside_both_and_costs_no_memory():
    at = {1: {"a": 1.0}, 64: {"a": 9.0, "b": 4.0, "dense": 4.5}, 512: {"a": 80.0, "b": 60.0, "dense": 40.0}}
    assert two_layouts(at) == ("a", "a")
    at[64]["dense"] = 8.0
    assert two_layouts(at) == ("a", "b")


def test_counts_that_nothing_serves_and_times_that_are_not_known():
    assert two_layouts({1: {"a": 1.0}, 64: {}}) == ("a", "a")
    assert two_layouts({1: {"a": INF, "b": INF}, 64: {"b": INF}})[0] in "ab"
    assert two_layouts({1: {"a": 0.0, "b": 1.0}, 64: {"b": 0.0, "a": 1.0}}) == ("a", "b")


@given(
    st.dictionaries(
        st.integers(1, 600),
        st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 100), min_size=1),
        min_size=1,
        max_size=5,
    )
)
def test_a_pair_is_led_by_the_fastest_of_a_step_and_no_second_is_idle(at):
    step = at[min(at)]
    first, second = two_layouts(at)
    assert step[first] <= 1.03 * min(step.values())
    if second != first:

        def worst(names):
            behind = (min((t[n] for n in names if n in t), default=INF) / min(t.values()) for t in at.values())
            return min(100.0, max(behind))

        leaders = [lead for lead in step if step[lead] <= 1.03 * min(step.values())]
        assert worst({first}) > 1.25 * min(worst({lead, other}) for lead in leaders for other in "abcd")
