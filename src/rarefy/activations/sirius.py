"""Sirius: a contextually sparse decoder whose tokens and cache are corrected by rare passes of the dense model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.activations.eager_drafts import Drafting, EagerDrafts
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.registry import method


@dataclass(frozen=True, eq=False)
class Corrected:
    """What `Sirius.generate` made: tokens (1, prompt + new), the cache of all of them but the last, and its counts.

    drafted: tokens of the sparse model; checks: passes of the dense model after the prompt; rollbacks: checks that
    threw drafts away.
    """

    tokens: Tensor
    cache: Any
    new: int
    drafted: int
    checks: int
    rollbacks: int

    @property
    def advance(self) -> float:
        """Average advance length: new tokens for each dense pass."""
        return self.new / max(1, self.checks)

    def effective_density(self, sparse: float) -> float:
        """Weights read for each new token, as a share of the model's, where a sparse token reads the share `sparse`.

        A dense pass reads every weight once however many tokens it checks, so this is sparse * drafts per token +
        1 / advance; with no draft thrown away it is the paper's sparse + dense / advance.
        """
        return (sparse * self.drafted + self.checks) / max(1, self.new)


@method("sirius", source="Zhou et al. 2024, arXiv:2409.03856, sections 4.1 and 4.2", protocols=("selector",))
@dataclass(frozen=True)
class Sirius:
    """Greedy decoding by a model with selectors, checked every `period` tokens by the model without them.

    A draft stands if the dense model gives it at least the probability `least`; exact=True asks for the dense model's
    own best token instead, and then the text is that of dense greedy decoding. The first draft that falls is replaced
    by the dense model's token, and what came after it is thrown away. A check whose drafts all stand adds the dense
    model's next token, which it knows anyhow. The cache is overwritten with the dense model's keys and values.
    Differs: without the tree of drafts.
    """

    period: int = 16
    least: float = 0.1
    exact: bool = False

    def __post_init__(self) -> None:
        if self.period < 1 or not 0.0 < self.least <= 1.0:
            raise SparsityError(f"sirius: period={self.period} has to be 1 or more, least={self.least} in (0, 1]")

    @torch.no_grad()
    def generate(self, model: nn.Module, ids: Tensor, count: int, *, end: int | None = None) -> Corrected:
        """`count` new tokens after the prompt ids (1, tokens), fewer if the token `end` comes.

        model: a language model of transformers whose cache can be cropped, with selectors attached (ModelError if
        none), or what `rarefy.compile` made of it, which saves time too and whose dense passes read the same packed
        weights. The prompt is read dense. DataError for several sequences or a count below 1.
        """
        if ids.dim() != 2 or ids.shape[0] != 1 or ids.shape[1] < 1:
            raise DataError(f"sirius: ids of shape {tuple(ids.shape)}; correction is for one sequence, (1, tokens)")
        if count < 1:
            raise DataError(f"sirius: count={count} new tokens; give 1 or more")
        run = _Run(getattr(model, "drafting", None) or EagerDrafts(model), self, ids, count)
        while run.new < count and not run.ended(end):
            run.round(min(self.period, count - run.new), end)
        run.cut(run.length_until(count, end))
        return Corrected(run.tokens, run.cache, run.new, run.drafted, run.checks, run.rollbacks)


class _Run:
    """The tokens so far, all of them accepted; the cache holds the dense keys and values of all but the last."""

    def __init__(self, sides: Drafting, rules: Sirius, ids: Tensor, count: int) -> None:
        self.sides, self.rules, self.begin = sides, rules, ids.shape[1]
        self.drafted = self.checks = self.rollbacks = 0
        logits, self.cache = sides.begin(ids, count + 1)
        self.tokens = torch.cat([ids, logits.argmax(-1)[None]], 1)

    @property
    def new(self) -> int:
        return int(self.tokens.shape[1]) - self.begin

    def ended(self, end: int | None) -> bool:
        return end is not None and bool((self.tokens[0, self.begin :] == end).any())

    def length_until(self, count: int, end: int | None) -> int:
        found = (self.tokens[0, self.begin :] == end).nonzero() if end is not None else torch.empty(0)
        until = int(found[0]) + 1 if len(found) else self.new
        return self.begin + min(count, until)

    def cut(self, length: int) -> None:
        """Leaves the first `length` tokens: the dense model's own token may be one too many."""
        self._forget(int(self.tokens.shape[1]) - length)
        self.tokens = self.tokens[:, :length]

    def round(self, count: int, end: int | None) -> None:
        """Drafts up to `count` tokens and keeps those that stand in one dense pass, and one dense token more."""
        drafts = self.sides.draft(self.tokens[:, -1:], self.cache, count, end)[0]
        self.drafted += len(drafts)
        self._forget(len(drafts))
        logits = self.sides.check(torch.cat([self.tokens[:, -1:], drafts[None]], 1), self.cache)[0]
        self.checks += 1
        best = logits.argmax(-1)
        kept = int(self._stands(logits[:-1], drafts, best[:-1]).long().cumprod(0).sum())
        self.rollbacks += kept < len(drafts)
        self._forget(len(drafts) - kept)
        self.tokens = torch.cat([self.tokens, drafts[None, :kept], best[None, kept : kept + 1]], 1)

    def _stands(self, logits: Tensor, drafts: Tensor, best: Tensor) -> Tensor:
        if self.rules.exact:
            return drafts == best
        chance = logits.float().softmax(-1).gather(1, drafts[:, None])[:, 0]
        return chance >= self.rules.least

    def _forget(self, count: int) -> None:
        """Takes the last tokens out of the cache."""
        if count:
            self.cache.crop(-count)
