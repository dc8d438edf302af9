"""The plot of a comparison: a metric against the share of zeros, a line a method, patterns as marks of their own."""

import io
from itertools import cycle
from typing import Any

from rarefy.recipes.comparison.comparison import Comparison
from rarefy.recipes.comparison.condition import FREE, Condition

_MARKS = "os^vDPX*<>hdp"
_FAR = 20.0  # a metric that grows by more than this factor is drawn on a logarithmic axis


def plot(found: Comparison, metric: str | None = None) -> str:
    """An SVG; error bars are one standard deviation. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metric = metric or found.metrics[0]
    fixed = list(dict.fromkeys(c.pattern for c in found.conditions if c.pattern != FREE))
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "compare", "font.size": 9}):
        panels = [FREE] * any(c.pattern == FREE for c in found.conditions) + fixed
        widths = [3 if _is_curve(found, name) else 1.2 for name in panels]
        figure, axes = plt.subplots(
            1, len(panels), figsize=(2.6 * sum(widths) + 2, 4.6), width_ratios=widths, sharey=True, squeeze=False
        )
        for axis, name in zip(axes[0], panels, strict=True):
            _panel(axis, found, metric, name)
        axes[0][0].set_ylabel(f"{metric} ({'lower' if metric in found.lower else 'higher'} is better)")
        if metric in found.lower and _far(found, metric):
            axes[0][0].set_yscale("log")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        figure.tight_layout()
        out = io.StringIO()
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _is_curve(found: Comparison, pattern: str) -> bool:
    return len(_columns(found, pattern)) > 1


def _columns(found: Comparison, pattern: str) -> list[Condition]:
    return sorted((c for c in found.conditions if c.pattern == pattern), key=lambda c: c.zeros)


def _panel(axis: Any, found: Comparison, metric: str, pattern: str) -> None:
    """One pattern: curves over sparsity, or where it has one sparsity a mark beside the other a method."""
    columns = _columns(found, pattern)
    for number, (method, mark) in enumerate(zip(found.methods, cycle(_MARKS), strict=False)):
        points = [(c, s) for c in columns if (s := found.spread(method, c, metric)) is not None]
        x = [100 * c.zeros for c, _ in points] if len(columns) > 1 else [number] * len(points)
        y, sd = [s.mean for _, s in points], [s.sd for _, s in points]
        style = {"marker": mark, "color": f"C{number % 10}", "markersize": 4, "linewidth": 1.2, "capsize": 2}
        axis.errorbar(x, y, sd, label=method, linestyle="-" if number < 10 else "--", **style)
    axis.axhline(found.dense[metric], color="0.5", linewidth=0.8, linestyle=":")
    axis.set_title(pattern)
    axis.grid(axis="y", alpha=0.25)
    if len(columns) > 1:
        axis.set_xlabel("zeros, %")
    else:
        axis.set_xticks([])


def _far(found: Comparison, metric: str) -> bool:
    means = [s.mean for m in found.methods for c in found.conditions if (s := found.spread(m, c, metric)) is not None]
    return bool(means) and min(means) > 0 and max(means) > _FAR * min(means)
