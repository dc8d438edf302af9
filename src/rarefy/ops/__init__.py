"""Floor 2: what kernels compute, as torch operations with a reference in torch and a native implementation.

The only package that imports the native module. Importing it registers the operations of the `rarefy` namespace.
"""

from rarefy.ops import attention as attention
from rarefy.ops import conv_library as conv_library
from rarefy.ops import conv_pool as conv_pool
from rarefy.ops import library as library
from rarefy.ops import norm as norm
from rarefy.ops import quantize as quantize
from rarefy.ops.conv import PackedConv, pack_conv, see_conv
from rarefy.ops.conv_kernels import conv_candidates
from rarefy.ops.conv_pool import Pool, pool_of
from rarefy.ops.conv_reference import Window, window_of
from rarefy.ops.mapped import map_file, packed_bytes, see
from rarefy.ops.native import KernelInfo, available, build, features, kernels, why_not
from rarefy.ops.packed import ACTIVATIONS, PackedWeight, candidates, pack
from rarefy.ops.train import Layer, TrainIndex

__all__ = [
    "ACTIVATIONS",
    "KernelInfo",
    "Layer",
    "PackedConv",
    "PackedWeight",
    "Pool",
    "TrainIndex",
    "Window",
    "available",
    "build",
    "candidates",
    "conv_candidates",
    "features",
    "kernels",
    "map_file",
    "pack",
    "pack_conv",
    "packed_bytes",
    "pool_of",
    "see",
    "see_conv",
    "why_not",
    "window_of",
]
