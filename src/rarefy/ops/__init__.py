"""Floor 2: what kernels compute, as torch operations with a reference in torch and a native implementation.

The only package that imports the native module. Importing it registers the operations of the `rarefy` namespace.
"""

from rarefy.ops import attention as attention
from rarefy.ops import library as library
from rarefy.ops import norm as norm
from rarefy.ops import quantize as quantize
from rarefy.ops.native import KernelInfo, available, build, features, kernels, why_not
from rarefy.ops.packed import ACTIVATIONS, PackedWeight, candidates, pack

__all__ = [
    "ACTIVATIONS",
    "KernelInfo",
    "PackedWeight",
    "available",
    "build",
    "candidates",
    "features",
    "kernels",
    "pack",
    "why_not",
]
