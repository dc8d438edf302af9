"""How a predictor is trained, and how good it is."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rarefy.core.errors import DataError, SparsityError
from rarefy.core.shapes import Bool, Float
from rarefy.selectors.predictor import Predictor as Predictor
from rarefy.selectors.predictor import top as top


def require_fit(what: str, rank: int, steps: int) -> None:
    """SparsityError for a predictor that cannot be trained so."""
    if rank < 1 or steps < 1:
        raise SparsityError(f"{what}: rank={rank} and steps={steps} have to be positive")


@torch.inference_mode(False)
def fit_predictor(
    x: Float[Tensor, "tokens width"],
    label: Bool[Tensor, "tokens targets"],
    *,
    rank: int,
    steps: int = 300,
    rows: int = 256,
    rate: float = 5e-3,
    seed: int = 0,
) -> Predictor:
    """A predictor trained by binary cross entropy: Adam on tokens drawn by the seed, its rate falling to 0."""
    if len(x) != len(label) or len(x) < 2:
        raise DataError(f"fit_predictor: {len(x)} inputs beside {len(label)} labels; give two tokens or more")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Predictor(x.shape[1], label.shape[1], rank).to(x.device)
    net.mean.copy_(x.float().mean(0))
    net.scale.copy_(x.float().std(0).clamp_min(1e-6))
    with torch.no_grad():  # begins at the frequencies, so that what is learnt is the context
        share = label.float().mean(0).clamp(1e-3, 1 - 1e-3)
        net.second.bias.copy_(torch.logit(share))
    adam = torch.optim.Adam(net.parameters(), lr=rate)
    with torch.enable_grad():
        for step in range(steps):
            drawn = torch.randint(0, len(x), (min(rows, len(x)),), generator=generator)
            for group in adam.param_groups:
                group["lr"] = rate * (1 - step / steps)
            loss = F.binary_cross_entropy_with_logits(net(x[drawn]), label[drawn].float())
            adam.zero_grad()
            loss.backward()
            adam.step()
    return net.requires_grad_(False).eval()


def recall(kept: Bool[Tensor, "tokens targets"], label: Bool[Tensor, "tokens targets"]) -> float:
    """Share of what matters that is kept, over all tokens; 1 where nothing matters."""
    whole = int(label.sum())
    return float((kept & label).sum()) / whole if whole else 1.0
