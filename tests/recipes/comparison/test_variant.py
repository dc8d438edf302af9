"""How methods and columns are written."""

import pytest

from rarefy.core.errors import RarefyError, SparsityError, UnknownNameError
from rarefy.pruning.magnitude import magnitude
from rarefy.recipes.comparison.condition import Condition, conditions
from rarefy.recipes.comparison.variant import parse_variant, variant_of


def test_a_name_alone():
    found = parse_variant("wanda")
    assert (found.label, found.method, found.allocation, found.repair, found.options) == (
        "wanda",
        "wanda",
        None,
        None,
        {},
    )


def test_allocation_options_repair_and_pattern():
    found = parse_variant("sparsegpt@owl+columns=64+repair=weights+bias+pattern=2:4++corrected=true+start=wanda")
    assert found.allocation == "owl"
    assert found.repair == "weights+bias"
    assert found.pattern == "2:4+"  # a pattern whose name ends in a plus
    assert found.options == {"columns": 64, "corrected": True, "start": "wanda"}


@pytest.mark.parametrize("text", ["", "@owl", "wanda@", "wanda+fast", "wanda+=3", "wanda+a=1+a=2"])
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(RarefyError, match="methods"):
        variant_of(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wnda", "did you mean 'wanda'"),
        ("wanda@owll", "owl"),
        ("wanda+damping=1", "has no option 'damping'"),
        ("wanda+repair=wights", "weights"),
        ("wanda+pattern=2:x", "pattern"),
    ],
)
def test_a_wrong_name_is_found_before_anything_runs(text, said):
    with pytest.raises(UnknownNameError, match=said):
        variant_of(text)


def test_a_method_object_is_its_own_variant_and_may_be_labelled():
    found = variant_of(magnitude(), "mine")
    assert found.label == "mine" and found.method == magnitude()


def test_patterns_with_one_density_come_once():
    found = conditions(["unstructured", "2:4", "block:4x1"], [0.5, 0.6])
    assert [c.label for c in found] == ["50%", "60%", "2:4", "block:4x1 50%", "block:4x1 60%"]
    assert Condition("1:4", None).zeros == 0.75


def test_sparsities_are_checked():
    with pytest.raises(SparsityError, match="70"):
        conditions(["unstructured"], [70])
    with pytest.raises(SparsityError, match="missing"):
        conditions(["2:4", "unstructured"], [])
