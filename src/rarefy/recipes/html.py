"""report.html: one file, plots inline, the same numbers as report.json."""

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from rarefy.recipes import html_plots
from rarefy.recipes.html_parts import cards, facts, figure, query, table, timings
from rarefy.recipes.html_style import STYLE

Report = Mapping[str, Any]


def page(report: Report) -> str:
    """The whole page; a section that the report has nothing for is left out."""
    parts = [part for section in _SECTIONS if (part := section(report))]
    title = f"{report['model']['name']}: {report['prune']['sparsity']:.0%} zeros"
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>rarefy report: {escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _head(report: Report) -> str:
    job, where = report["job"], report["environment"]
    done = report["recovery"]
    steps = (
        f", then {done['steps']} steps of distillation with the mask fixed ({done['seconds']:.0f} s)" if done else ""
    )
    return (
        f"<p>Pruned with {escape(job['method'])}{steps}. Measured on {escape(where['cpu'])}, "
        f"{where['threads']} thread(s), {escape(where['isa'])}, {escape(where['date'])}. "
        "Every figure here was measured in this run.</p>"
    )


def _targets(report: Report) -> str:
    targets = report.get("targets")
    if not targets:
        return ""
    rows = [
        (t["name"], f"{t['target']:g}", f"{t['measured']:.3f}", ("good", "met") if t["met"] else ("bad", "missed"))
        for t in targets
    ]
    return "<h2>Targets</h2>" + table(("what", "target", "measured", ""), rows)


def _quality(report: Report) -> str:
    named = {"after pruning": report["quality"].get("pruned"), "after recovery": report["quality"].get("recovered")}
    named["compiled"] = report.get("compiled_quality")
    other = report.get("magnitude")
    if other:
        named["magnitude, after pruning"] = other["quality"]["pruned"]
        named["magnitude, same recovery"] = other["quality"].get("recovered")
    rows = [
        (name, _or_dash(q.get("perplexity")), f"{q['cosine']:.4f}", _or_dash(q["overlap"]))
        for name, q in named.items()
        if q
    ]
    dense = next((q.get("dense_perplexity") for q in named.values() if q), None)
    if dense is not None:
        rows.insert(0, ("dense", f"{dense:.3f}", "1", "-"))
    data = report["data"]
    note = f"On {data['evaluation']} unseen {data['what']}; {data['calibration']} others calibrated the pruning" + (
        f" and {data['recovery']} the recovery." if report["recovery"] else "."
    )
    return f"<h2>Quality</h2><p class=soft>{note}</p>" + table(
        ("model", "perplexity", "mean cosine", "top-10 overlap"), rows
    )


def _sweep(report: Report) -> str:
    drawn = report.get("sweep")
    if not drawn:
        return ""
    note = (
        f"One-shot, without recovery; {drawn['calibration']} calibration and {drawn['evaluation']} unseen passages "
        "only, to save time."
    )
    rows = [
        (p["method"], f"{p['sparsity']:.0%}", f"{p['cosine']:.4f}", _or_dash(p["overlap"])) for p in drawn["points"]
    ]
    listed = table(("method", "zeros", "mean cosine", "top-10 overlap"), rows)
    return (
        f"<h2>Quality against sparsity</h2><p class=soft>{note}</p>"
        + figure(html_plots.sweep, drawn["points"])
        + f"<details><summary>the numbers</summary>{listed}</details>"
    )


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _layers(report: Report) -> str:
    sites = report["prune"]["sites"]
    rows = [
        (s["name"], f"{s['shape'][0]} x {s['shape'][1]}", f"{s['zeros'] / s['size']:.2%}", _or_dash(s["error"]))
        for s in sites
    ]
    left = [(name, why) for name, why in report["prune"]["skipped"].items()]
    listed = table(("layer", "shape", "zeros", "relative output error"), rows)
    alone = "<p class=soft>Left alone: " + escape("; ".join(f"{n} ({w})" for n, w in left)) + "</p>" if left else ""
    return (
        "<h2>Zeros per layer</h2>"
        + figure(html_plots.layer_sparsity, sites)
        + f"{alone}<details><summary>the numbers</summary>{listed}</details>"
    )


def _layer_times(report: Report) -> str:
    rows = [r for r in report["compile"]["rows"] if r["dense_ms"] is not None and r["sparse_ms"] is not None]
    if not rows:
        return "<h2>Time per layer</h2><p>No layer had a sparse kernel to time.</p>"
    parts = ["<h2>Time per layer</h2>"]
    for tokens in sorted({r["tokens"] for r in rows}):
        mine = [r for r in rows if r["tokens"] == tokens]
        listed = [(r["name"], f"{r['dense_ms']:.3f}", f"{r['sparse_ms']:.3f}", r["kernel"], r["reason"]) for r in mine]
        numbers = table(("layer", "dense ms", "sparse ms", "runs", "why"), listed)
        named = figure(lambda data, t=tokens: html_plots.layer_times(data).replace("times_", f"times{t}_"), mine)
        parts.append(f"<h3>{tokens} tokens</h3>{named}<details><summary>the numbers</summary>{numbers}</details>")
    return "".join(parts)


def _end(report: Report) -> str:
    return (
        f"<h2>Where and with what</h2>{facts(report['environment'])}<p class=soft>{report['seconds']:.0f} s in all.</p>"
    )


_SECTIONS: tuple[Callable[[Report], str], ...] = (
    _head,
    cards,
    _targets,
    timings,
    _quality,
    query,
    _sweep,
    _layers,
    _layer_times,
    _end,
)
