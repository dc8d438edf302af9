"""What compiling decided, as plain data: enough to pack the weights again without timing anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rarefy.core.quantized import InputScale
from rarefy.engine.capture import Example
from rarefy.engine.conv_choices import ConvChoices, known_kernels
from rarefy.engine.conv_scales import ConvScales
from rarefy.engine.machine import machine
from rarefy.engine.plan import LayerPlan
from rarefy.engine.precision import Precision
from rarefy.ops import kernels

DECODER = "decoder"  # in `Choices.runs`, for a language model on its own runtime
Steps = tuple[tuple[int, str | None], ...]  # (largest token count, kernel; None is dense)


@dataclass(frozen=True)
class Choices:
    """kernels: by site; scales: of 8-bit inputs by site, where they are static; examples: what the
    model was compiled for, and runs: the variant that was chosen for each; threads: of the calls (None: torch's own
    number); machine: where it was timed; complete: False where something else was chosen that is not said here;
    image_scales: for each example those of 8-bit convolutions, by their name in the captured graph;
    parts: of a decoder, the layers that are computed as one, by the name of the first; convs: of convolutions, None
    where none is native."""

    kernels: Mapping[str, Steps]
    precision: Precision = field(default_factory=Precision)
    scales: Mapping[str, InputScale] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    runs: Sequence[str] = ()
    threads: int | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True
    image_scales: Sequence[Mapping[str, ConvScales]] = ()
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    convs: ConvChoices | None = None

    @property
    def steps(self) -> dict[str, tuple[tuple[Any, str | None], ...]]:
        """The kernels of every layer, convolutions too, by site."""
        return {**self.kernels, **({} if self.convs is None else self.convs.kernels)}

    @property
    def needs_source(self) -> bool:
        """Whether some calls run the model as it was given, which needs its dense weights."""
        return "source" in self.runs

    @property
    def of_decoder(self) -> bool:
        """Whether a causal language model was compiled for a runtime of its own."""
        return DECODER in self.runs

    def why_not_here(self) -> str | None:
        """Why these choices are not those of this process; None if they are."""
        if not self.complete:
            return "its convolutions are planned where they run"
        here, there = machine(self.threads), self.machine
        if any(here[part] != there.get(part) for part in ("cpu", "features", "threads")):
            return "it was compiled on another CPU, for other instructions or for another number of threads"
        known = {kernel.name for kernel in kernels()} or {"reference"}
        lost = sorted({name for steps in self.kernels.values() for _, name in steps if name is not None} - known)
        lost += [] if self.convs is None else sorted(self.convs.names - known_kernels())
        return f"this process has no kernel {lost[0]!r}" if lost else None


def choices_of(
    plans: Mapping[str, LayerPlan],
    precision: Precision,
    scales: Mapping[str, InputScale],
    examples: Sequence[Example],
    runs: Sequence[str],
    threads: int | None,
    image_scales: Sequence[Mapping[str, ConvScales]] = (),
    convs: ConvChoices | None = None,
) -> Choices:
    """The choices that plans stand for."""
    names = {
        site: tuple((limit, None if packed is None else packed.kernel) for limit, packed in plan.steps)
        for site, plan in plans.items()
    }
    held = {site: scale for site, scale in scales.items() if site in names}
    here = machine(threads or torch.get_num_threads())
    ways = tuple(examples), tuple(runs)
    return Choices(names, precision, held, *ways, threads, here, image_scales=image_scales, convs=convs)
