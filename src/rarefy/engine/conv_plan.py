"""Which kernel each convolution gets, decided by timing it against torch's at the images of the examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.site import Site
from rarefy.engine.explain import LayerRow
from rarefy.engine.fused_conv import FusedConv2d
from rarefy.engine.timing import interleaved
from rarefy.ops import PackedConv, Window, conv_candidates, pack_conv, window_of
from rarefy.ops.conv_across import convolve_across, to_across
from rarefy.ops.conv_reference import conv2d

_MARGIN = 1.03  # a kernel has to win by more than the noise of the timing
Image = tuple[int, int, int]  # batch, height, width of a layer's input


@dataclass(frozen=True)
class ConvPlan:
    """The packed weights of one convolution by the images that they were chosen for; None = stay with torch."""

    site: Site
    window: Window
    steps: tuple[tuple[Image, PackedConv | None], ...]

    def at(self, image: Image) -> PackedConv | None:
        """The choice for the measured image that is nearest in its number of pixels."""
        return min(self.steps, key=lambda step: abs(_pixels(step[0]) - _pixels(image)))[1]

    @property
    def any_native(self) -> bool:
        return any(packed is not None for _, packed in self.steps)


def _pixels(image: Image) -> int:
    return image[0] * image[1] * image[2]


def images_of(sites: Sequence[Site], run: Callable[[], Any]) -> dict[str, Image]:
    """The image that each convolution sees in one run (the largest, where it is called several times)."""
    seen: dict[str, Image] = {}
    hooks = []
    for site in sites:

        def note(module: nn.Module, args: tuple[Any, ...], name: str = site.name) -> None:
            x = args[0]
            if x.dim() == 4:
                image = (x.shape[0], x.shape[2], x.shape[3])
                seen[name] = max(image, seen.get(name, image), key=_pixels)

        hooks += [m.register_forward_pre_hook(note) for m in site.modules]
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _why_torch(site: Site) -> str | None:
    """The reason to leave a convolution alone without timing it, if there is one."""
    if site.parameter.dtype != torch.float32:
        return f"weights are {site.parameter.dtype}, the native kernels take float32"
    if site.parameter.device.type != "cpu":
        return f"weights are on {site.parameter.device}, the native kernels run on the CPU"
    assert isinstance(site.module, nn.Conv2d)
    return None if window_of(site.module) is not None else "its padding is not of zeros on both sides alike"


class ConvPlanner:
    """Plans convolutions; those of one shape, window, density and image are timed once."""

    def __init__(self) -> None:
        self.rows: list[LayerRow] = []
        self._timed: dict[Any, dict[str, float]] = {}

    def plan(self, site: Site, images: Sequence[Image]) -> ConvPlan | None:
        module = site.module
        assert isinstance(module, nn.Conv2d)
        weight = module.weight.detach()
        sparsity = 1.0 - int(weight.count_nonzero()) / max(1, weight.numel())
        why, window = _why_torch(site), window_of(module)
        if why is not None or window is None or not images:
            reason = why or "not reached by the example inputs"
            self.rows.append(LayerRow(site.name, site.shape, sparsity, 0, "dense", None, None, reason))
            return None
        packs: dict[str, PackedConv] = {}
        steps: list[tuple[Image, PackedConv | None]] = []
        for image in sorted(set(images), key=_pixels):
            kernel = self._choose(site, weight, window, sparsity, image)
            if kernel != "dense" and kernel not in packs:
                packs[kernel] = pack_conv(weight, window, kernel)
            steps.append((image, packs.get(kernel)))
        plan = ConvPlan(site, window, tuple(steps))
        return plan if plan.any_native else None

    def _choose(self, site: Site, weight: Tensor, window: Window, sparsity: float, image: Image) -> str:
        key = (tuple(weight.shape), window, round(sparsity * 50), image)
        if key not in self._timed:
            self._timed[key] = time_conv(weight, window, image)
        times = self._timed[key]
        native = {name: ms for name, ms in times.items() if name != "dense"}
        best = min(native, key=lambda name: native[name])
        wins = native[best] * _MARGIN < times["dense"]
        chosen = best if wins else "dense"
        reason = f"{times['dense'] / native[best]:.2f}x faster than dense" if wins else "dense is as fast or faster"
        high, wide = window.out_size(image[1:], weight.shape[2:])
        self.rows.append(
            LayerRow(
                site.name,
                site.shape,
                sparsity,
                image[0] * high * wide,
                chosen,
                times["dense"],
                native[best],
                reason,
                dict(native),
            )
        )
        return chosen


def time_conv(weight: Tensor, window: Window, image: Image) -> dict[str, float]:
    """Median milliseconds of torch's convolution and of each candidate kernel, in interleaved rounds."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(image[0], weight.shape[1] * window.groups, *image[1:], generator=generator)
    bias = torch.zeros(weight.shape[0])
    calls: dict[str, Callable[[], Any]] = {"dense": partial(conv2d, x, weight, bias, None, "none", window)}
    for name in conv_candidates(weight):
        try:
            packed = pack_conv(weight, window, name)
        except ValueError:  # this kernel's offsets are too short for the window
            continue
        calls[name] = partial(packed.convolve, x, bias, None, "none")
    with torch.inference_mode():
        rounds = interleaved(calls, rounds=7, warmup=2, seconds=0.5)
    return {name: rounds.median(name) for name in calls}


class AcrossPlanner:
    """Packs convolutions for `batch` images across the lanes of vectors, by the kernel that is fastest so."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._best: dict[Any, str] = {}

    def repack(self, conv: FusedConv2d, image: tuple[int, int]) -> FusedConv2d:
        packed = conv.packed
        key = (packed.shape, packed.window, packed.nnz * 50 // max(1, packed.to_dense().numel()), image)
        if key not in self._best:
            times = time_across(packed.to_dense(), packed.window, (self.batch, *image))
            self._best[key] = min(times, key=lambda name: times[name])
        again = pack_conv(packed.to_dense(), packed.window, self._best[key], across=True)
        return FusedConv2d(again, conv.bias, conv.activation)


def time_across(weight: Tensor, window: Window, image: Image) -> dict[str, float]:
    """Median milliseconds of each candidate kernel on images across the lanes, in interleaved rounds."""
    x = to_across(torch.randn(image[0], weight.shape[1] * window.groups, *image[1:]))
    packs = {name: pack_conv(weight, window, name, across=True) for name in conv_candidates(weight)}
    calls = {name: partial(convolve_across, packed, x, None, None, "none") for name, packed in packs.items()}
    with torch.inference_mode():
        rounds = interleaved(calls, rounds=5, warmup=1, seconds=0.3)
    return {name: rounds.median(name) for name in calls}


def conv_plans_of(
    sites: Sequence[Site], images: Mapping[str, Sequence[Image]]
) -> tuple[dict[str, ConvPlan], list[LayerRow]]:
    """Plans of the convolutions among `sites` by site name, and the rows that explain them."""
    planner = ConvPlanner()
    convs = [site for site in sites if isinstance(site.module, nn.Conv2d)]
    plans = {site.name: planner.plan(site, images.get(site.name, ())) for site in convs}
    return {name: plan for name, plan in plans.items() if plan is not None}, planner.rows
