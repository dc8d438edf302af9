"""The plots of the report, as SVG that takes its text colour from the page."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

_INK = "#010203"  # stands for the page's text colour until the SVG is written
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_COLORS = ("#7a8599", "#d9822b", "#2f7de1")


def available() -> str | None:
    """None if plots can be drawn, else why not."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "plots are left out: matplotlib is not installed (pip install 'rarefy[demo]')"
    return None


def _axes(name: str, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ink: dict[Any, Any] = dict.fromkeys(_INKED, _INK)
    plain: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10, "font.family": "sans-serif"}
    with plt.rc_context({**ink, **plain}):
        figure, axes = plt.subplots(figsize=(9, height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return figure, axes


def _svg(figure: Any, name: str) -> str:
    import matplotlib
    import matplotlib.pyplot as plt

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'id="(figure|axes|matplotlib|patch|line2d|text|xtick|ytick)_', rf'id="{name}_\1_', svg)


def short(name: str) -> str:
    """A layer's name without the words that all layers share."""
    return re.sub(r"^(encoder\.|model\.|bert\.|transformer\.)?(layers?|h|blocks)\.", "", name)


def layer_sparsity(sites: Sequence[Mapping[str, Any]]) -> str:
    """Share of zeros of each pruned layer."""
    figure, axes = _axes("sparsity", 3.2)
    axes.bar(range(len(sites)), [100 * s["zeros"] / s["size"] for s in sites], color=_COLORS[2])
    axes.set(ylabel="zeros, %", ylim=(0, 100))
    _name_layers(axes, [s["name"] for s in sites])
    return _svg(figure, "sparsity")


def layer_times(rows: Sequence[Mapping[str, Any]]) -> str:
    """Dense and sparse milliseconds of each layer, side by side."""
    figure, axes = _axes("times", 3.4)
    places = range(len(rows))
    axes.bar([i - 0.2 for i in places], [r["dense_ms"] for r in rows], 0.4, label="dense torch", color=_COLORS[0])
    axes.bar(
        [i + 0.2 for i in places], [r["sparse_ms"] for r in rows], 0.4, label="best sparse kernel", color=_COLORS[2]
    )
    axes.set(ylabel="ms")
    _name_layers(axes, [r["name"] for r in rows])
    _legend(axes)
    return _svg(figure, "times")


def sweep(points: Sequence[Mapping[str, Any]]) -> str:
    """Mean cosine against sparsity, one line a method."""
    figure, axes = _axes("sweep", 3.6)
    methods = list(dict.fromkeys(p["method"] for p in points))
    for method, color, marker in zip(methods, _COLORS, "so^", strict=False):
        mine = [p for p in points if p["method"] == method]
        x = [100 * p["sparsity"] for p in mine]
        axes.plot(x, [p["cosine"] for p in mine], color=color, marker=marker, linewidth=2, label=method)
    axes.set(xlabel="zeros, %", ylabel="mean cosine to the dense outputs", ylim=(None, 1.0))
    _legend(axes)
    return _svg(figure, "sweep")


def _legend(axes: Any) -> None:
    legend = axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    for text in legend.get_texts():
        text.set_color(_INK)


def _name_layers(axes: Any, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), [short(n) for n in names], rotation=90, fontsize=7)
    for side in ("x", "y"):
        axes.tick_params(axis=side, colors=_INK)
