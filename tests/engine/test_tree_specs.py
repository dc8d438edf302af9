"""Structures of inputs in every torch that is supported."""

import pytest
from torch.utils._pytree import TreeSpec, tree_flatten

from rarefy.engine.lean import _children


def test_the_parts_of_a_structure_are_found_without_the_method_of_newer_torches(monkeypatch: pytest.MonkeyPatch):
    _, spec = tree_flatten(((1, 2), {"x": 3}))
    monkeypatch.delattr(TreeSpec, "children", raising=False)  # as in torch 2.6
    positional, named = _children(spec)
    assert positional.num_children == 2 and list(named.context) == ["x"]
