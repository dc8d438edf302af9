"""Floor 3: which few of many a token uses, and how that choice hangs on a model."""

from rarefy.selectors.attach import (
    InputSelector,
    OutputSelector,
    detach,
    hidden_selector,
    input_selector,
    paused,
    select_hidden,
    select_inputs,
)
from rarefy.selectors.places import FeedForward, Projection, feed_forwards, projections
from rarefy.selectors.threshold import Threshold
from rarefy.selectors.top_k import TopK

__all__ = [
    "FeedForward",
    "InputSelector",
    "OutputSelector",
    "Projection",
    "Threshold",
    "TopK",
    "detach",
    "feed_forwards",
    "hidden_selector",
    "input_selector",
    "paused",
    "projections",
    "select_hidden",
    "select_inputs",
]
