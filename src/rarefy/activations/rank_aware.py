"""What makes layers of a model `RankAware`: the factors of a weight, and where the layer is put."""

import torch
from torch import Tensor, nn

from rarefy.selectors.rank_aware import RankAware as RankAware


def factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(left (out, rank), right (rank, in)) of the best approximation of a weight (out, in)."""
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    return u[:, :rank].to(weight.dtype).contiguous(), (s[:rank, None] * vh[:rank]).to(weight.dtype).contiguous()


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts a module where the name says."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
