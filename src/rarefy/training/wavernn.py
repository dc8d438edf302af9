"""WaveRNN: one recurrent layer that writes 16-bit samples, coarse byte first, then the fine byte."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.errors import DataError, ShapeError

_LEVELS = 256


class WaveRNN(nn.Module):
    """A gated recurrent unit with two softmax outputs of 256 levels for the two bytes of a sample.

    With x = [c', f', c], the last sample's bytes and the coarse one of now, scaled to [-1, 1]:
    u = sigmoid(R_u h + I_u x), r = sigmoid(R_r h + I_r x), e = tanh(r * (R_e h) + I_e x), h <- u * h + (1 - u) * e.
    The first half of h does not see c and gives P(c) = softmax(O2 relu(O1 h)); the second half sees it and gives P(f).
    Source: Kalchbrenner et al. 2018, arXiv:1802.08435, eq. 2. Differs: c enters the fine half through a matrix of its
    own in place of a masked one.
    """

    def __init__(self, width: int = 896, head: int | None = None) -> None:
        super().__init__()
        if width % 2:
            raise ShapeError(
                f"WaveRNN: width {width} cannot be split into a coarse and a fine half; give an even width"
            )
        half, head = width // 2, head or width // 2
        self.width = width
        self.recurrent = nn.Linear(width, 3 * width, bias=False)  # R_u, R_r, R_e
        self.past = nn.Linear(2, 3 * width)
        self.now = nn.Linear(1, 3 * half, bias=False)
        self.coarse = nn.Sequential(nn.Linear(half, head), nn.ReLU(), nn.Linear(head, _LEVELS))
        self.fine = nn.Sequential(nn.Linear(half, head), nn.ReLU(), nn.Linear(head, _LEVELS))

    def cell(self, past: Tensor, now: Tensor, h: Tensor) -> Tensor:
        """The next state of all units. past (batch, 3 width), now (batch, 3 width / 2): what the inputs add."""
        u, r, e = self.recurrent(h).chunk(3, -1)
        ix_u, ix_r, ix_e = (_add_to_fine(p, n) for p, n in zip(past.chunk(3, -1), now.chunk(3, -1), strict=True))
        gate, reset = torch.sigmoid(u + ix_u), torch.sigmoid(r + ix_r)
        return gate * h + (1.0 - gate) * torch.tanh(reset * e + ix_e)

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, time - 1, 256) of the coarse and the fine byte of samples 1, 2, ... from those before each.

        samples: (batch, time) integers in [0, 65536).
        """
        if samples.dim() != 2 or samples.shape[1] < 2:
            raise DataError(f"WaveRNN: samples {tuple(samples.shape)}; give (batch, time) with at least two samples")
        coarse, fine = bytes_of(samples)
        past = self.past(_scaled(torch.stack([coarse, fine], -1)[:, :-1]))
        now = self.now(_scaled(coarse[:, 1:, None]))
        h, states = samples.new_zeros(len(samples), self.width, dtype=past.dtype), []
        for step in range(past.shape[1]):
            h = self.cell(past[:, step], now[:, step], h)
            states.append(h)
        seen_c, seen_f = torch.stack(states, 1).chunk(2, -1)
        return self.coarse(seen_c), self.fine(seen_f)

    def loss(self, samples: Tensor) -> Tensor:
        """Mean negative log-likelihood of a sample (both bytes), in nats."""
        coarse, fine = bytes_of(samples[:, 1:])
        of_c, of_f = self(samples)
        return F.cross_entropy(of_c.flatten(0, 1), coarse.flatten()) + F.cross_entropy(
            of_f.flatten(0, 1), fine.flatten()
        )

    @torch.no_grad()
    def sample(self, steps: int, batch: int = 1, *, seed: int = 0) -> Tensor:
        """(batch, steps) samples drawn one after the other, the first being silence (32768)."""
        generator = torch.Generator().manual_seed(seed)
        h, found = torch.zeros(batch, self.width), [torch.full((batch,), 32768)]
        for _ in range(steps - 1):
            past = self.past(_scaled(torch.stack(bytes_of(found[-1]), -1)))
            guess = self.cell(past, torch.zeros(batch, 3 * self.width // 2), h)  # right in the coarse half
            coarse = self._draw(self.coarse(guess[:, : self.width // 2]), generator)
            h = self.cell(past, self.now(_scaled(coarse[:, None])), h)
            fine = self._draw(self.fine(h[:, self.width // 2 :]), generator)
            found.append(coarse * _LEVELS + fine)
        return torch.stack(found, 1)

    @staticmethod
    def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def bytes_of(samples: Tensor) -> tuple[Tensor, Tensor]:
    """The coarse and the fine byte of 16-bit samples.

    >>> [part.tolist() for part in bytes_of(torch.tensor([258, 65535]))]
    [[1, 255], [2, 255]]
    """
    return samples // _LEVELS, samples % _LEVELS


def _scaled(values: Tensor) -> Tensor:
    return values.to(torch.get_default_dtype()) / ((_LEVELS - 1) / 2) - 1.0


def _add_to_fine(past: Tensor, now: Tensor) -> Tensor:
    coarse, fine = past.chunk(2, -1)
    return torch.cat([coarse, fine + now], -1)
