"""The columns of a comparison: where weights may be kept, and how many."""

from collections.abc import Sequence
from dataclasses import dataclass

from rarefy.core.density import density_of
from rarefy.core.errors import SparsityError
from rarefy.patterns.parse import parse_pattern
from rarefy.pruning.resolve import fixed_density

FREE = "unstructured"


@dataclass(frozen=True)
class Condition:
    """A pattern by name, and a sparsity where the pattern does not fix it."""

    pattern: str
    sparsity: float | None

    @property
    def label(self) -> str:
        """ "60%", "2:4", "block:4x1 60%"."""
        if self.sparsity is None:
            return self.pattern
        share = f"{100 * self.sparsity:g}%"
        return share if self.pattern == FREE else f"{self.pattern} {share}"

    @property
    def zeros(self) -> float:
        """The fraction of zeros, whoever fixes it."""
        if self.sparsity is not None:
            return self.sparsity
        fixed = fixed_density(parse_pattern(self.pattern))
        assert fixed is not None, "conditions() leaves the sparsity out only where the pattern fixes it"
        return 1.0 - fixed


def conditions(patterns: Sequence[str], sparsities: Sequence[float]) -> list[Condition]:
    """Every pattern at every sparsity; a pattern that has one density only comes once."""
    found: list[Condition] = []
    for name in patterns:
        fixed = fixed_density(parse_pattern(name))
        if fixed is None and not sparsities:
            raise SparsityError(f"sparsity: missing; {name} needs fractions of zeros, e.g. 0.5,0.6")
        found += [Condition(name, None)] if fixed is not None else [Condition(name, s) for s in sparsities]
    for condition in found:
        if condition.sparsity is not None:
            density_of(condition.sparsity)
    if not found:
        raise SparsityError("pattern: none given; leave it out, or give e.g. unstructured,2:4")
    return list(dict.fromkeys(found))
