"""Times of a convolution by torch and by native kernels: measured, or as they were measured before."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rarefy.engine.cache import Record, TimingCache
from rarefy.engine.conv_choices import Image
from rarefy.engine.steady import steady, timed
from rarefy.engine.timing import interleaved
from rarefy.ops import Window, pack_conv
from rarefy.ops.conv8 import is_conv8, pack_conv8
from rarefy.ops.conv_reference import conv2d
from rarefy.ops.words import words_of


def known_times(
    kind: str,
    weight: Tensor,
    window: Window,
    image: Image,
    tried: Sequence[str],
    measure: Callable[[], dict[str, float]],
) -> tuple[dict[str, float], str]:
    """Milliseconds by kernel, from the cache on disk or measured now, and which of the two."""
    names = frozenset({"dense", *tried})
    density = round(50 * float(weight.count_nonzero()) / max(1, weight.numel()))
    kind = f"{kind}{'8' * any(map(is_conv8, tried))}"
    key = f"{kind} {tuple(weight.shape)} {window} {image} {density}/50 {torch.get_num_threads()} threads"
    cache = TimingCache()
    known = cache.get(key)
    if known is not None and known.tried == names:
        return dict(known.ms), "cache"
    times = measure()
    cache.put(key, Record(times, None, names))
    return times, "measured"


def time_conv(weight: Tensor, window: Window, image: Image, names: Sequence[str]) -> dict[str, float]:
    """Median milliseconds of torch's convolution and of each of the kernels, in interleaved rounds.

    Kernels write where they wrote before, as in a compiled model: pages that are new at every call would cost more than
    a small kernel. 8-bit ones read and write bytes, as they do between each other.
    """

    def measured(images: int) -> dict[str, float]:
        calls = _calls(weight, window, (images, *image[1:]), names)
        with torch.inference_mode():
            rounds = interleaved(calls, rounds=7, warmup=2, seconds=0.5, steady=steady())
        return {name: rounds.median(name) for name in calls}

    return timed(measured, image[0])


def _calls(weight: Tensor, window: Window, image: Image, names: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """What is timed, on inputs of the image's size, by name."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(image[0], weight.shape[1] * window.groups, *image[1:], generator=generator)
    bias = torch.zeros(weight.shape[0])
    calls: dict[str, Callable[[], Any]] = {"dense": partial(conv2d, x, weight, bias, None, "none", window)}
    out = torch.empty(image[0], weight.shape[0], *window.out_size(image[1:], weight.shape[2:]))
    for name in names:
        try:
            if is_conv8(name):
                packed8 = pack_conv8(weight, window, name)
                calls[name] = packed8.prepared(words_of(x, (0.05, 128)), bias, None, "none", (0.05, 128))[0]
            else:
                calls[name] = partial(pack_conv(weight, window, name).convolve, x, bias, None, "none", out)
        except ValueError:  # this kernel's offsets are too short for the window
            continue
    return calls
