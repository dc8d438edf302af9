"""Names of patterns as users write them."""

import re

from rarefy.core.errors import unknown_name
from rarefy.core.protocols import Pattern
from rarefy.patterns.block import Block
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.grouped_nm import GroupedNM
from rarefy.patterns.nm import NM
from rarefy.patterns.padded import PaddedNM
from rarefy.patterns.transposable import Transposable
from rarefy.patterns.unstructured import Layerwise, Rowwise

_FIXED: dict[str, Pattern] = {
    "unstructured": Layerwise(),
    "layerwise": Layerwise(),
    "rowwise": Rowwise(),
    "fanin": FanIn(),
}


def parse_pattern(name: str) -> Pattern:
    """The pattern of a name: "unstructured", "layerwise", "rowwise", "fanin", "N:M", "N:M+" (any width), "tN:M"
    (transposable), "N:M:G" or "block:RxC".

    >>> parse_pattern("2:4"), parse_pattern("block:4x1"), parse_pattern("fanin")
    (NM(n=2, m=4), Block(r=4, c=1), FanIn())
    """
    if name in _FIXED:
        return _FIXED[name]
    if match := re.fullmatch(r"(\d+):(\d+)", name):
        return NM(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"(\d+):(\d+)\+", name):
        return PaddedNM(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"t(\d+):(\d+)", name):
        return Transposable(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"(\d+):(\d+):(\d+)", name):
        return GroupedNM(int(match[1]), int(match[2]), int(match[3]))
    if match := re.fullmatch(r"block:(\d+)x(\d+)", name):
        return Block(int(match[1]), int(match[2]))
    raise unknown_name(
        "pattern", name, [*_FIXED, "2:4", "4:8", "1:4", "2:4:8", "t2:4", "block:4x1", "block:1x4", "block:16x1"]
    )
