"""What a comparison found, and its plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from rarefy.recipes.comparison.cell import Cell, Outcome
from rarefy.recipes.comparison.condition import Condition

SCHEMA = "rarefy.comparison/1"


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over `count` seeds (0 for one)."""

    mean: float
    sd: float
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """None where there are no values."""
    if not values:
        return None
    return Spread(mean(values), stdev(values) if len(values) > 1 else 0.0, len(values))


@dataclass(frozen=True)
class Comparison:
    """dense: the metrics of the model as it came; lower: metrics of which less is better; cells: every outcome that
    is known, failed ones too; heading: what was asked of what, where."""

    methods: tuple[str, ...]
    conditions: tuple[Condition, ...]
    seeds: tuple[int, ...]
    dense: Mapping[str, float]
    lower: frozenset[str]
    cells: Mapping[Cell, Outcome]
    heading: Mapping[str, Any]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names, the most important first."""
        return tuple(self.dense)

    def outcomes(self, method: str, condition: Condition) -> list[tuple[int, Outcome]]:
        """(seed, outcome) of the cells of a row and a column."""
        asked = ((c, o) for c, o in self.cells.items() if c.variant is not None)
        return [(c.seed, o) for c, o in asked if c.variant.label == method and c.condition == condition]  # type: ignore[union-attr]

    def spread(self, method: str, condition: Condition, metric: str) -> Spread | None:
        """Of a metric, or of "seconds", "peak_mib" or "sparsity"; over the seeds that did not fail."""
        good = [outcome for _, outcome in self.outcomes(method, condition) if outcome.error is None]
        own = metric in ("seconds", "peak_mib", "sparsity")
        values = [getattr(o, metric) if own else o.metrics.get(metric) for o in good]
        return spread([value for value in values if value is not None])

    def best(self, condition: Condition, metric: str) -> str | None:
        """The method with the best mean in a column."""
        found = {m: s.mean for m in self.methods if (s := self.spread(m, condition, metric)) is not None}
        if not found:
            return None
        return (min if metric in self.lower else max)(found, key=found.__getitem__)

    def rows(self) -> list[dict[str, Any]]:
        """A plain row a cell, for csv, JSON or a data frame."""
        found = []
        for method in self.methods:
            for condition in self.conditions:
                for seed, o in sorted(self.outcomes(method, condition), key=lambda pair: pair[0]):
                    head = {"method": method, "pattern": condition.pattern, "asked": condition.zeros, "seed": seed}
                    own = {"sparsity": o.sparsity, "seconds": o.seconds, "peak_mib": o.peak_mib, "layers": o.layers}
                    found.append(head | {m: o.metrics.get(m) for m in self.metrics} | own | {"error": o.error})
        return found

    def to_dict(self) -> dict[str, Any]:
        asked = {"methods": list(self.methods), "conditions": [c.label for c in self.conditions]}
        lower = sorted(self.lower)
        found = {"seeds": list(self.seeds), "dense": dict(self.dense), "lower_is_better": lower, "cells": self.rows()}
        return {"schema": SCHEMA, **self.heading, **asked, **found}

    def table(self, metric: str | None = None) -> str:
        """The Markdown table of a metric (by default the most important)."""
        from rarefy.recipes.comparison.table import metric_table

        return metric_table(self, metric or self.metrics[0])

    def __str__(self) -> str:
        return self.table()
