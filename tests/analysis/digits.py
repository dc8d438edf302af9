"""Small pictures of ten digits, drawn by the seed: noisy, shifted copies of 8 x 8 strokes."""

import torch
from torch import Tensor

_STROKES = (
    "00111100 01000010 01000010 01000010 01000010 01000010 00111100 00000000",
    "00010000 00110000 00010000 00010000 00010000 00010000 00111000 00000000",
    "00111100 01000010 00000010 00001100 00110000 01000000 01111110 00000000",
    "00111100 01000010 00000010 00011100 00000010 01000010 00111100 00000000",
    "00001100 00010100 00100100 01000100 01111110 00000100 00000100 00000000",
    "01111110 01000000 01111100 00000010 00000010 01000010 00111100 00000000",
    "00111100 01000000 01111100 01000010 01000010 01000010 00111100 00000000",
    "01111110 00000010 00000100 00001000 00010000 00010000 00010000 00000000",
    "00111100 01000010 00111100 01000010 01000010 01000010 00111100 00000000",
    "00111100 01000010 01000010 00111110 00000010 00000010 00111100 00000000",
)


def digits(count: int, seed: int, noise: float = 0.25) -> tuple[Tensor, Tensor]:
    """(pictures (count, 64), labels): each stroke picture moved by up to one pixel, with noise."""
    generator = torch.Generator().manual_seed(seed)
    strokes = torch.tensor([[float(c) for c in s.replace(" ", "")] for s in _STROKES]).view(10, 8, 8)
    labels = torch.randint(0, 10, (count,), generator=generator)
    moves = torch.randint(-1, 2, (count, 2), generator=generator).tolist()
    moved = [strokes[label].roll(move, (0, 1)) for label, move in zip(labels.tolist(), moves, strict=True)]
    pictures = torch.stack(moved).view(count, 64)
    return pictures + noise * torch.randn(count, 64, generator=generator) - 0.3, labels
