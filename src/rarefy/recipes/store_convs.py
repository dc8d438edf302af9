"""The choices of convolutions in `engine.json`, read with every number looked at."""

from collections.abc import Mapping
from typing import Any

from rarefy.engine.conv_choices import ConvChoices, ConvSteps, Image, Seen

_LARGEST = 2**31  # images, pixels or tokens


def conv_choices(raw: Any, examples: int) -> ConvChoices | None:
    """What `asdict` gave of choices for so many examples. Raises ValueError, or what its parts raise, for anything
    else."""
    if raw is None:
        return None
    seen = tuple(_seen(one) for one in raw["seen"])
    if len(seen) != examples:
        raise ValueError("convolutions were seen in more or fewer examples")
    return ConvChoices({str(name): _steps(steps) for name, steps in raw["kernels"].items()}, seen)


def _steps(raw: Any) -> ConvSteps:
    steps = tuple((_image(image), None if kernel is None else _text(kernel)) for image, kernel in raw)
    if not steps:
        raise ValueError("a convolution has no kernels")
    return steps


def _seen(raw: Mapping[str, Any]) -> Seen:
    images = {str(name): _image(image) for name, image in raw["images"].items()}
    tokens = {str(name): _count(tokens) for name, tokens in raw["tokens"].items()}
    return Seen(images, tokens, {str(name): _text(kernel) for name, kernel in raw["across"].items()})


def _image(raw: Any) -> Image:
    batch, height, width = map(_count, raw)
    return batch, height, width


def _count(raw: Any) -> int:
    if type(raw) is not int or not 0 <= raw < _LARGEST:
        raise ValueError(f"{raw!r} counts nothing")
    return raw


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} names no kernel")
    return raw
