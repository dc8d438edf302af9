"""Strings of the Reber grammar: predicting which letter may come next."""

import torch
from torch import Tensor

_NEXT = {
    0: (("B", 1),),
    1: (("T", 2), ("P", 3)),
    2: (("S", 2), ("X", 4)),
    3: (("T", 3), ("V", 5)),
    4: (("X", 3), ("S", 6)),
    5: (("P", 4), ("V", 6)),
    6: (("E", 7),),
}
LETTERS = "BTPSXVE"


def strings(count: int, seed: int, length: int = 9) -> tuple[Tensor, Tensor]:
    """(letters (count, length, 7) one-hot, which may follow each (count, length, 7)); cut or filled with zeros."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.zeros(count, length, 7), torch.zeros(count, length, 7)
    for row in range(count):
        state = 0
        for at in range(length):
            if state == 7:
                break
            options = _NEXT[state]
            letter, state = options[int(torch.randint(len(options), (), generator=generator))]
            x[row, at, LETTERS.index(letter)] = 1.0
            for follower, _ in _NEXT.get(state, ()):
                y[row, at, LETTERS.index(follower)] = 1.0
    return x, y
