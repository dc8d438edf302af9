"""Convolutions for images across the lanes of vectors: which kernel each gets, by timing."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rarefy.engine import conv_times
from rarefy.engine.conv_choices import Image
from rarefy.engine.fused_conv import FusedConv2d, FusedConvPool
from rarefy.engine.timing import interleaved
from rarefy.ops import PackedConv, Pool, Window, pack_conv
from rarefy.ops.conv_across import convolve_across, pooled_across, to_across
from rarefy.ops.conv_kernels import candidates_across, filters_across, is_dense

Across = FusedConv2d | FusedConvPool  # what images may lie across the lanes of vectors for


class AcrossPlanner:
    """Packs convolutions for `batch` images across the lanes of vectors, by the kernel that is fastest so."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def repack(self, step: Across, image: tuple[int, int]) -> Across:
        """What computes the same on images across; one with pooling stays as it is where that is faster."""
        conv = step.conv if isinstance(step, FusedConvPool) else step
        weight, window = conv.packed.to_dense(), conv.packed.window
        seen = (self.batch, *image)
        if isinstance(step, FusedConvPool):
            names = pooled_candidates(weight, window, step.pool)
            measure = partial(time_pooled, conv.packed, step.pool, seen, names)
            kind = f"conv and {step.pool} across"
        else:
            names = candidates_across(weight, window)
            measure = partial(time_across, weight, window, seen)
            kind = "conv across into"
        times = conv_times.known_times(kind, weight, window, seen, names, measure)[0] if names else {"dense": 0.0}
        best = min(times, key=lambda name: times[name])
        if best == "dense":  # of a step with pooling: images side by side
            return step
        again = FusedConv2d(pack_conv(weight, window, best, across=True), conv.bias, conv.activation)
        return FusedConvPool(again, step.pool) if isinstance(step, FusedConvPool) else again


def pooled_candidates(weight: Tensor, window: Window, pool: Pool) -> list[str]:
    """Kernels that pool what they compute of images across, and are worth timing."""
    return filters_across(weight.shape, window) if is_dense(weight) and pool.dilation == (1, 1) else []


def time_across(weight: Tensor, window: Window, image: Image) -> dict[str, float]:
    """Median milliseconds of each candidate kernel on images across the lanes, in interleaved rounds."""
    shape = image[0], weight.shape[1] * window.groups, *image[1:]
    x = to_across(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    packs = {name: pack_conv(weight, window, name, across=True) for name in candidates_across(weight, window)}
    high, wide = window.out_size(image[1:], weight.shape[2:])
    out = torch.empty(x.shape[0], weight.shape[0], high, wide, x.shape[-1])
    calls = {name: partial(convolve_across, packed, x, None, None, "none", out) for name, packed in packs.items()}
    with torch.inference_mode():
        rounds = interleaved(calls, rounds=5, warmup=1, seconds=0.3)
    return {name: rounds.median(name) for name in calls}


def time_pooled(packed: PackedConv, pool: Pool, image: Image, names: Sequence[str]) -> dict[str, float]:
    """Median milliseconds of a convolution and its pooling, images side by side ("dense") and across by each kernel, in
    interleaved rounds: from images as they are given to results across."""
    shape = image[0], packed.shape[1] * packed.window.groups, *image[1:]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    bias, across = torch.zeros(packed.shape[0]), to_across(x)
    out = to_across(torch.empty(pool.out_shape(packed.out_shape(shape))))
    packs = {name: pack_conv(packed.to_dense(), packed.window, name, across=True) for name in names}

    def beside() -> None:
        to_across(packed.convolve_pooled(x, bias, "relu", pool), out)

    def filtered(again: PackedConv) -> None:
        pooled_across(again, to_across(x, across), bias, "relu", pool, out)

    calls: dict[str, Callable[[], Any]] = {"dense": beside}
    calls |= {name: partial(filtered, again) for name, again in packs.items()}
    with torch.inference_mode():
        rounds = interleaved(calls, rounds=5, warmup=1, seconds=0.3)
    return {name: rounds.median(name) for name in calls}
