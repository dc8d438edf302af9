import pytest

from contracts.impostor import assert_beats_impostor


def is_four(value: int) -> None:
    assert value == 4


def test_a_check_that_only_the_real_one_passes_is_accepted() -> None:
    assert_beats_impostor(is_four, 4, 5)


def test_a_check_that_the_impostor_passes_is_refused() -> None:
    with pytest.raises(AssertionError, match="the impostor 4 passes too"):
        assert_beats_impostor(is_four, 4, 4)


def test_a_check_that_the_method_fails_is_refused() -> None:
    with pytest.raises(AssertionError, match="assert 3 == 4"):
        assert_beats_impostor(is_four, 3, 5)


def test_an_impostor_that_breaks_in_another_way_is_no_pass() -> None:
    def check(value: int) -> None:
        if value != 4:
            raise KeyError("broken check")

    with pytest.raises(KeyError):
        assert_beats_impostor(check, 4, 5)
