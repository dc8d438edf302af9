"""The tables of a comparison as Markdown: a row a method, a column a condition."""

from collections.abc import Callable, Sequence

from rarefy.recipes.comparison.comparison import Comparison, Spread
from rarefy.recipes.comparison.condition import Condition

_OFF = 0.005  # a share of zeros that misses the asked one by more is noted
Cells = Callable[[str, Condition], str]


def metric_table(found: Comparison, metric: str) -> str:
    """Mean and standard deviation over the seeds; the best of each column is bold; failures are numbered."""
    notes = Notes()

    def cell(method: str, condition: Condition) -> str:
        text = shown(found.spread(method, condition, metric))
        text = f"**{text}**" if found.best(condition, metric) == method else text
        return text + notes.of(failures(found, method, condition))

    return _grid(found, cell) + notes.text()


def cost_table(found: Comparison) -> str:
    """Seconds of the pruning and, in brackets, the most MiB that it took above model and data; means over seeds."""

    def cell(method: str, condition: Condition) -> str:
        seconds, peak = (found.spread(method, condition, name) for name in ("seconds", "peak_mib"))
        if seconds is None:
            return "-"
        return f"{seconds.mean:.3g}" + (f" ({peak.mean:.0f})" if peak is not None else "")

    return _grid(found, cell)


def page(found: Comparison, title: str) -> str:
    """The whole report: what was asked, a table a metric, the costs, what was left alone."""
    dense = ", ".join(f"{name} {value:.4g}" for name, value in found.dense.items())
    parts = [f"# {title}", _heading(found), f"Dense model: {dense}."]
    for metric in found.metrics:
        better = "lower is better" if metric in found.lower else "higher is better"
        parts += [f"## {metric} ({better})", metric_table(found, metric)]
    parts += ["## Seconds to prune (MiB above model and data)", cost_table(found), *_remarks(found)]
    return "\n\n".join(parts) + "\n"


def shown(value: Spread | None) -> str:
    """ "1.688 ± 0.004", four digits and two."""
    if value is None:
        return "-"
    return f"{value.mean:.4g}" + (f" ± {value.sd:.2g}" if value.count > 1 else "")


def failures(found: Comparison, method: str, condition: Condition) -> list[str]:
    """Why cells failed, each reason once, and how many seeds did."""
    errors = [o.error for _, o in found.outcomes(method, condition) if o.error is not None]
    return [f"{error} ({errors.count(error)} of {len(found.seeds)} seeds)" for error in dict.fromkeys(errors)]


class Notes:
    """Footnotes, equal ones under one number."""

    def __init__(self) -> None:
        self.known: list[str] = []

    def of(self, texts: Sequence[str]) -> str:
        self.known += [text for text in dict.fromkeys(texts) if text not in self.known]
        return "".join(f" [{self.known.index(text) + 1}]" for text in dict.fromkeys(texts))

    def text(self) -> str:
        return "".join(f"\n\n[{i + 1}] failed: {text}" for i, text in enumerate(self.known))


def _grid(found: Comparison, cell: Cells) -> str:
    lines = ["| method | " + " | ".join(c.label for c in found.conditions) + " |"]
    lines.append("|---" * (1 + len(found.conditions)) + "|")
    for method in found.methods:
        lines.append(f"| {method} | " + " | ".join(cell(method, c) for c in found.conditions) + " |")
    return "\n".join(lines)


def _heading(found: Comparison) -> str:
    said = found.heading
    where = said.get("environment", {})
    seeds = f"{len(found.seeds)} seed(s) of calibration data"
    parts = [str(said.get("model", "")), seeds, str(said.get("data", ""))]
    machine = f"{where.get('cpu')}, {where.get('threads')} thread(s), torch {where.get('versions', {}).get('torch')}"
    parts.append(f"{machine}, {str(where.get('date', ''))[:10]}")
    return "; ".join(part for part in parts if part) + ". Mean ± standard deviation over seeds; best in bold."


def _remarks(found: Comparison) -> list[str]:
    """What keeps cells from being like for like, if anything does."""
    said = []
    for method in found.methods:
        for condition in found.conditions:
            zeros = found.spread(method, condition, "sparsity")
            if zeros is not None and abs(zeros.mean - condition.zeros) > _OFF:
                said.append(f"{method} at {condition.label} has {zeros.mean:.2%} zeros.")
    counts = {o.layers for o in found.cells.values() if o.layers is not None}
    if len(counts) > 1:
        said.append(f"Not all cells prune the same number of layers: {sorted(counts)}; see `skipped` of each cell.")
    missing = len(found.methods) * len(found.conditions) * len(found.seeds)
    missing -= sum(1 for cell in found.cells if cell.variant is not None)
    if missing:
        said.append(f"{missing} cell(s) have not been run yet.")
    return said
