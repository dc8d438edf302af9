"""Which kernel each convolution gets, decided by timing it against torch's at the images of the examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.calls import first_input
from rarefy.core.site import Site
from rarefy.engine import conv_times
from rarefy.engine.conv_choices import ConvSteps, Image
from rarefy.engine.explain import LayerRow
from rarefy.engine.precision import Precision
from rarefy.ops import PackedConv, Window, conv_candidates, pack_conv, window_of
from rarefy.ops.conv8 import PackedConv8, conv8_candidates, is_conv8, pack_conv8
from rarefy.ops.depthwise import depthwise_candidates

_MARGIN = (
    0.9  # a kernel that is nearly as fast wins: it also takes in what follows, which torch would compute on its own
)
_LIKELY_SPARSITY = 0.6  # from here on a native kernel is likely faster than torch's convolution


@dataclass(frozen=True)
class ConvPlan:
    """The packed weights of one convolution by the images that they were chosen for; None = stay with torch."""

    site: Site
    window: Window
    steps: tuple[tuple[Image, PackedConv | PackedConv8 | None], ...]

    def at(self, image: Image) -> PackedConv | PackedConv8 | None:
        """The choice for the measured image that is nearest in its number of pixels."""
        return min(self.steps, key=lambda step: abs(_pixels(step[0]) - _pixels(image)))[1]

    @property
    def kernels(self) -> ConvSteps:
        return tuple((image, None if packed is None else packed.kernel) for image, packed in self.steps)

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

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = site.name) -> None:
            x = first_input(args, kwargs)
            if x.dim() == 4:
                image = (x.shape[0], x.shape[2], x.shape[3])
                seen[name] = max(image, seen.get(name, image), key=_pixels)

        hooks += [m.register_forward_pre_hook(note, with_kwargs=True) for m in site.modules]
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def why_torch(site: Site) -> str | None:
    """The reason to leave a convolution alone without timing it, if there is one."""
    if site.parameter.dtype != torch.float32:
        return f"weights are {site.parameter.dtype}, the native kernels take float32"
    if site.parameter.device.type != "cpu":
        return f"weights are on {site.parameter.device}, the native kernels run on the CPU"
    assert isinstance(site.module, nn.Conv2d)
    return None if window_of(site.module) is not None else "its padding is not of zeros on both sides alike"


class ConvPlanner:
    """Plans convolutions; those of one shape, window, density and image are timed once a machine.

    precision: with int8 weights and activations, 8-bit kernels are timed too. measure: False times nothing and takes
    the likely best kernel wherever zeros or the window make a gain likely.
    """

    def __init__(self, precision: Precision = Precision(), *, measure: bool = True) -> None:
        self.rows: list[LayerRow] = []
        self._measure = measure
        self._eight = (precision.weights, precision.activations) == ("int8", "int8")

    def plan(self, site: Site, images: Sequence[Image]) -> ConvPlan | None:
        """The plan of one convolution, or None if it stays with torch at every image."""
        module = site.module
        assert isinstance(module, nn.Conv2d)
        weight = module.weight.detach()
        sparsity = 1.0 - int(weight.count_nonzero()) / max(1, weight.numel())
        why, window = why_torch(site), window_of(module)
        if why is not None or window is None or not images:
            reason = why or "not reached by the example inputs"
            self.rows.append(LayerRow(site.name, site.shape, sparsity, 0, "dense", None, None, reason))
            return None
        packs: dict[str, PackedConv | PackedConv8] = {}
        steps: list[tuple[Image, PackedConv | PackedConv8 | None]] = []
        for image in sorted(set(images), key=_pixels):
            kernel = self._choose(site, weight, window, sparsity, image)
            if kernel != "dense" and kernel not in packs:
                packs[kernel] = (pack_conv8 if is_conv8(kernel) else pack_conv)(weight, window, kernel)
            steps.append((image, packs.get(kernel)))
        plan = ConvPlan(site, window, tuple(steps))
        return plan if plan.any_native else None

    def _choose(self, site: Site, weight: Tensor, window: Window, sparsity: float, image: Image) -> str:
        high, wide = window.out_size(image[1:], weight.shape[2:])
        about = site.name, site.shape, sparsity, image[0] * high * wide
        if not self._measure:
            likely = sparsity > _LIKELY_SPARSITY
            kernel = candidates_of(weight, window, self._eight)[0] if likely else "dense"
            self.rows.append(LayerRow(*about, kernel, None, None, "not timed", origin="model"))
            return kernel
        names = candidates_of(weight, window, self._eight)
        measure = partial(conv_times.time_conv, weight, window, image, names)
        times, origin = conv_times.known_times("conv into", weight, window, image, names, measure)
        native = {name: ms for name, ms in times.items() if name != "dense"}
        best = min(native, key=lambda name: native[name])
        gain = times["dense"] / native[best]
        chosen = best if gain > _MARGIN else "dense"
        reason = "dense is faster" if chosen == "dense" else f"{gain:.2f}x faster than dense"
        self.rows.append(LayerRow(*about, chosen, times["dense"], native[best], reason, dict(native), origin))
        return chosen


def candidates_of(weight: Tensor, window: Window, eight: bool) -> list[str]:
    """Kernels worth timing, likely best first; `eight`: 8-bit ones too."""
    floats = [*depthwise_candidates(weight, window, eight=False), *conv_candidates(weight, window.groups)]
    return (conv8_candidates(weight, window) if eight else []) + floats


def conv_plans_of(
    sites: Sequence[Site],
    images: Mapping[str, Sequence[Image]],
    precision: Precision = Precision(),
    *,
    measure: bool = True,
) -> tuple[dict[str, ConvPlan], list[LayerRow]]:
    """Plans of the convolutions among `sites` by site name, and the rows that explain them."""
    planner = ConvPlanner(precision, measure=measure)
    convs = [site for site in sites if isinstance(site.module, nn.Conv2d)]
    plans = {site.name: planner.plan(site, images.get(site.name, ())) for site in convs}
    return {name: plan for name, plan in plans.items() if plan is not None}, planner.rows
