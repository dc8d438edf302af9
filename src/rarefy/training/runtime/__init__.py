"""The runtime of sparse training: layers whose forward and backward passes skip the zeros."""

from rarefy.training.runtime.conv import SparseConv2d
from rarefy.training.runtime.faster import Speed, faster
from rarefy.training.runtime.linear import SparseLinear
from rarefy.training.runtime.module import SparseModule
from rarefy.training.runtime.topology import Move, Topology, carry

__all__ = ["Move", "SparseConv2d", "SparseLinear", "SparseModule", "Speed", "Topology", "carry", "faster"]
