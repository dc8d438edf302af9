"""Floor 5: making the zeros pay. Measured choice of kernels, whole-model compilation, comparison with rivals."""

from rarefy.engine.benchmark import benchmark
from rarefy.engine.benchmark_report import BenchmarkReport
from rarefy.engine.compile import compile
from rarefy.engine.compiled import Compiled
from rarefy.engine.decoder.model import CompiledDecoder
from rarefy.engine.explain import Explanation, LayerRow
from rarefy.engine.profile_report import Profile, StepRow
from rarefy.engine.systems import with_system

__all__ = [
    "BenchmarkReport",
    "Compiled",
    "CompiledDecoder",
    "Explanation",
    "LayerRow",
    "Profile",
    "StepRow",
    "benchmark",
    "compile",
    "with_system",
]
