"""Running a model with other weights in its layers, through which gradients flow; its parameters are untouched."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from rarefy.core.site import Site


@contextmanager
def swapped_weights(sites: Sequence[Site]) -> Iterator[Callable[[Site, Tensor], None]]:
    """While open, a function that gives a site's modules another weight (out, in) to compute with; restored after."""
    modules = {id(module): module for site in sites for module in site.modules}
    saved = {key: dict(module._parameters) for key, module in modules.items()}

    def swap(site: Site, weight: Tensor) -> None:
        old = saved[id(site.module)]["weight"]
        assert old is not None
        shaped = (weight.t() if site.transposed else weight.reshape(old.shape)).to(old.dtype)
        for module in site.modules:
            module._parameters.pop("weight", None)
            module.__dict__["weight"] = shaped

    try:
        yield swap
    finally:
        for key, module in modules.items():
            module.__dict__.pop("weight", None)
            module._parameters.clear()
            module._parameters.update(saved[key])
