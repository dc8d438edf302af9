"""MaskLLM: N:M masks learned by gradient descent through a Gumbel softmax, the weights frozen."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.allocations.uniform import Uniform
from rarefy.calibration import collect, runner
from rarefy.calibration.batches import evaluation
from rarefy.calibration.gradients import loss_of
from rarefy.calibration.swapped import swapped_weights
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Allocation, Pattern, Score
from rarefy.core.registry import method
from rarefy.core.shapes import Mask
from rarefy.core.site import Site
from rarefy.patterns.grouped_nm import all_ways
from rarefy.patterns.nm import NM
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.chosen import Chosen
from rarefy.scores.input_norm import InputNorm
from rarefy.solvers.scored import Scored


@dataclass(frozen=True)
class GumbelMasks:
    """Logits p over the C(m, n) masks M_c of each group; soft mask sum_c y_c M_c, y = softmax((k p + gumbel) / t).

    The temperature t falls and the scale k rises linearly over the steps; the loss is the user's minus
    `regularisation` * sum |W * M|^2, which keeps what is kept large. Logits start as small noise plus
    strength * std * (<M_c, M_0> - mean over c), M_0 the mask of `prior` (None: no prior). The last mask is the argmax.
    steps: one batch each, batches taken in turn; rate: of AdamW, whose weight decay is 0.1 as in the paper's code.
    """

    steps: int = 2000
    rate: float = 5e-4
    temperatures: tuple[float, float] = (4.0, 0.05)
    scales: tuple[float, float] = (100.0, 500.0)
    regularisation: float = 1e-5
    prior: Score | None = field(default_factory=InputNorm)
    strength: float = 3.0
    noise: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 1 or min(self.rate, *self.temperatures, *self.scales, self.noise) <= 0:
            raise SparsityError(f"{self}: needs steps >= 1 and rate, temperatures, scales and noise above 0")

    def __call__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        patterns: Mapping[str, Pattern],
        batches: Sequence[Any],
        loss: Callable[[nn.Module, Any], Tensor],
        seed: int,
    ) -> dict[str, Mask]:
        for site in sites:
            if not isinstance(patterns[site.name], NM):
                raise SparsityError(f"{site.name}: maskllm learns N:M masks, not {patterns[site.name]}; use 2:4 or 4:8")
        logits = self.start(model, sites, patterns, batches, loss, seed)
        self._learn(model, sites, patterns, batches, loss, logits, seed)
        return {site.name: _hardest(logits[site.name], patterns[site.name], site.shape) for site in sites}

    def start(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        patterns: Mapping[str, Pattern],
        batches: Sequence[Any],
        loss: Callable[[nn.Module, Any], Tensor],
        seed: int,
    ) -> dict[str, Tensor]:
        """{site: logits (groups, ways)} before any step."""
        evidence = {site.name: Evidence(site.name, seed=seed) for site in sites}
        if self.prior is not None and self.prior.needs:
            evidence = collect(model, sites, batches, self.prior.needs, seed, runner(loss))
        found = {}
        for site in sites:
            pattern = patterns[site.name]
            assert isinstance(pattern, NM)
            ways = all_ways(pattern.n, pattern.m).float()
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {site.name}".encode()))
            logits = torch.randn(site.shape[0] * site.shape[1] // pattern.m, len(ways), generator=generator)
            logits *= self.noise
            if self.prior is not None:
                mask = _prior_mask(self.prior, site, pattern, evidence[site.name])
                alike = mask.float().reshape(-1, pattern.m) @ ways.t()
                logits += self.strength * logits.std() * (alike - pattern.n**2 / pattern.m)
            found[site.name] = logits
        return found

    def _learn(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        patterns: Mapping[str, Pattern],
        batches: Sequence[Any],
        loss: Callable[[nn.Module, Any], Tensor],
        logits: Mapping[str, Tensor],
        seed: int,
    ) -> None:
        learned = [logits[site.name].requires_grad_(True) for site in sites]
        optimizer = torch.optim.AdamW(learned, lr=self.rate, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1)
        generator = torch.Generator().manual_seed(seed)
        dense = {site.name: site.read() for site in sites}
        with evaluation(model), torch.enable_grad(), swapped_weights(sites) as swap:
            for step in range(self.steps):
                share = step / self.steps
                temperature, scale = (a + (b - a) * share for a, b in (self.temperatures, self.scales))
                kept = torch.zeros(())
                for site, p in zip(sites, learned, strict=True):
                    soft = _soft(p, patterns[site.name], scale, temperature, generator).view(site.shape)
                    masked = dense[site.name] * soft
                    swap(site, masked)
                    kept = kept + masked.square().sum()
                value = loss_of(model, batches[step % len(batches)], step % len(batches), loss)
                if not value.requires_grad:
                    raise DataError("maskllm: the loss depends on none of the layers; check loss= and ignore=")
                grads = torch.autograd.grad(value - self.regularisation * kept, learned, allow_unused=True)
                for p, grad in zip(learned, grads, strict=True):
                    p.grad = grad
                optimizer.step()
        for p in learned:
            p.requires_grad_(False)


def _prior_mask(prior: Score, site: Site, pattern: NM, evidence: Evidence) -> Mask:
    parts = enumerate(site.read().chunk(site.groups))
    scores = torch.cat([prior(rows, evidence.of_group(i, site.groups)) for i, rows in parts])
    return pattern.select(scores, pattern.density)


def _soft(logits: Tensor, pattern: Pattern, scale: float, temperature: float, generator: torch.Generator) -> Tensor:
    """Soft masks (groups, m): a Gumbel softmax over the ways, mixed."""
    assert isinstance(pattern, NM)
    uniform = torch.rand(logits.shape, generator=generator).clamp(1e-20, 1.0)
    gumbel = -(-uniform.log()).clamp_min(1e-20).log()
    y = ((scale * logits + gumbel) / temperature).softmax(1)
    return y @ all_ways(pattern.n, pattern.m).to(y.dtype)


def _hardest(logits: Tensor, pattern: Pattern, shape: tuple[int, int]) -> Mask:
    assert isinstance(pattern, NM)
    return all_ways(pattern.n, pattern.m)[logits.argmax(1)].view(shape)


@method(
    "maskllm",
    source="Fang et al. 2024 (MaskLLM), arXiv:2409.17481, section 3, eqs. 4-9",
    protocols=("pattern", "score", "transform"),
)
def maskllm(
    *,
    pattern: Pattern = NM(2, 4),
    allocation: Allocation = Uniform(),
    steps: int = 2000,
    rate: float = 5e-4,
    strength: float = 3.0,
    regularisation: float = 1e-5,
    prior: Score | None = InputNorm(),
) -> OneShot:
    """Learns N:M masks on frozen weights from the loss, by a Gumbel softmax over the ways to keep N of M.

    Differs: any N:M with at most a few hundred ways; the paper's rate is for 2000 steps of 256 sequences.
    """
    learner = GumbelMasks(steps, rate, strength=strength, regularisation=regularisation, prior=prior)
    return OneShot(Scored(Chosen()), pattern, allocation, ranking=prior, learner=learner)
