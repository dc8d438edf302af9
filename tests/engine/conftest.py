"""Choices by timing are made certain, so that what is tested is what follows from them."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from rarefy.engine.timing import Rounds
from rarefy.ops import candidates

ORDER = ("graph", "layers", "source")


@pytest.fixture
def prefer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`prefer("graph")`: layers go sparse, and of the whole-model variants the named one is fastest."""

    def set_up(variant: str = "graph", layer: str = "sparse") -> None:
        def layers(weight: Any, bias: Any, tokens: int, names: Any = None, **_: Any) -> dict[str, float]:
            names = candidates(weight, tokens) if names is None else names
            return {"dense": 2.0 if layer == "sparse" else 0.5, **dict.fromkeys(names, 1.0)}

        def variants(calls: Mapping[str, Callable[[], Any]], **_: Any) -> Rounds:
            for call in calls.values():
                call()
            ranked = list(dict.fromkeys([variant, *ORDER, *calls]))
            return Rounds({name: (1.0 + ranked.index(name),) * 3 for name in calls})

        monkeypatch.setattr(importlib.import_module("rarefy.engine.plan"), "time_layer", layers)
        monkeypatch.setattr(importlib.import_module("rarefy.engine.fastest"), "interleaved", variants)

    return set_up
