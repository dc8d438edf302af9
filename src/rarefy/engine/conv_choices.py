"""What compiling decided of convolutions, as plain data, and their weights as they are had packed for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rarefy.ops import PackedConv, Window, conv_kernels, native, pack_conv, see_conv
from rarefy.ops.conv8 import PackedConv8, is_conv8, kernels, pack_conv8, see_conv8

Image = tuple[int, int, int]  # batch, height, width of a layer's input
Packed = PackedConv | PackedConv8
ConvSteps = tuple[tuple[Image, str | None], ...]  # (the image that it was timed at, kernel; None is torch's)


@dataclass(frozen=True)
class Seen:
    """What the layers see in a call like one example. images: of convolutions; tokens: of linear layers; across: the
    kernels of convolutions that compute images across lanes ("dense": side by side), by their name in the graph."""

    images: Mapping[str, Image] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    across: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ConvChoices:
    """kernels: by site; seen: for each example."""

    kernels: Mapping[str, ConvSteps]
    seen: Sequence[Seen]

    @property
    def names(self) -> set[str]:
        """Every kernel that was chosen somewhere."""
        apart = {kernel for steps in self.kernels.values() for _, kernel in steps if kernel is not None}
        return apart | {kernel for one in self.seen for kernel in one.across.values() if kernel != "dense"}


def known_kernels() -> set[str]:
    """The kernels of convolutions that this process may use."""
    module = native.module()
    if module is None:
        return {conv_kernels.REFERENCE}
    lists = conv_kernels.kernels(), conv_kernels.direct_kernels(), conv_kernels.winograd_kernels(), kernels()
    return {kernel.name for one in lists for kernel in one} | set(module.depthwise_kernels())


@dataclass(frozen=True)
class WantedConv:
    """A weight (out, in / groups, kh, kw) to be had packed for a kernel. site: whose it is; weight: gives it, with the
    batch norm that it takes in; folded: what tells that norm from others."""

    site: str
    kernel: str
    shape: tuple[int, int, int, int]
    window: Window
    weight: Callable[[], Tensor]
    folded: str = ""
    across: bool = False

    @property
    def name(self) -> str:
        """Of what is packed: equal names, equal bytes, for one model."""
        return f"{self.site} {self.kernel} {self.shape} {self.window} {self.folded}{' across' if self.across else ''}"

    def packed(self) -> Packed:
        """In memory of its own."""
        if is_conv8(self.kernel):
            return pack_conv8(self.weight(), self.window, self.kernel)
        return pack_conv(self.weight(), self.window, self.kernel, across=self.across)

    def seen(self, file: Any, at: int, nbytes: int) -> Packed:
        """In a mapped file."""
        if is_conv8(self.kernel):
            return see_conv8(file, at, nbytes, self.shape, self.window, self.kernel)
        return see_conv(file, at, nbytes, self.shape, self.window, self.kernel, self.across)


Pack = Callable[[WantedConv], Packed]


def packed_here(wanted: WantedConv) -> Packed:
    """In memory of its own."""
    return wanted.packed()
