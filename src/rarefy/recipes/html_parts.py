"""Pieces of the report page."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from rarefy.recipes import html_plots

Report = Mapping[str, Any]
Cell = str | tuple[str, str]  # text, or (css class, text)


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], ours: str | None = None) -> str:
    """A table that scrolls sideways on a narrow screen; the row whose first cell is `ours` stands out."""
    lines = ["<div class=wide><table><tr>" + "".join(f"<th>{escape(h)}</th>" for h in head) + "</tr>"]
    for row in rows:
        mark = " class=ours" if ours is not None and row[0] == ours else ""
        lines.append(f"<tr{mark}>" + "".join(_cell(cell) for cell in row) + "</tr>")
    return "\n".join(lines) + "</table></div>"


def _cell(cell: Cell) -> str:
    if isinstance(cell, tuple):
        return f'<td class="{escape(cell[0])}">{escape(cell[1])}</td>'
    return f"<td>{escape(cell)}</td>"


def figure(draw: Callable[..., str], data: Any) -> str:
    """A plot, or the reason why there is none."""
    why = html_plots.available()
    return f"<p class=soft>{escape(why)}</p>" if why else f"<figure>{draw(data)}</figure>"


def _card(value: str, says: str) -> str:
    return f"<div class=card><b>{escape(value)}</b><span>{escape(says)}</span></div>"


def cards(report: Report) -> str:
    """The figures that a reader came for."""
    quality = report.get("compiled_quality") or list(report["quality"].values())[-1]
    shapes, file = report["bench"]["shapes"], report["file"]
    found = [_card(f"{report['prune']['sparsity']:.1%}", "zeros in the pruned layers")]
    if quality.get("perplexity") is not None:
        found.append(_card(f"{quality['perplexity']:.2f}", f"perplexity (dense {quality['dense_perplexity']:.2f})"))
    found.append(_card(f"{quality['cosine']:.3f}", "mean cosine to the dense outputs"))
    if quality["overlap"] is not None:
        found.append(_card(f"{quality['overlap']:.3f}", "top-10 overlap"))
    for shape in shapes:
        if "torch" in shape["timed"]:
            found.append(_card(f"{shape['timed']['torch']['ratio']:.2f}x", f"as fast as torch at {shape['shape']}"))
    writing = (report["bench"].get("writing") or {}).get("timed", {})
    if "torch" in writing:
        found.append(_card(f"{writing['torch']['ratio']:.2f}x", "as fast as torch a token"))
    share = file["pruned_file_bytes"] / max(1, file["pruned_dense_bytes"])
    found.append(_card(f"{share:.0%}", "of the pruned layers' dense bytes on disk"))
    return f"<div class=cards>{''.join(found)}</div>"


def timings(report: Report) -> str:
    """Every contestant at every shape, the fastest first; nothing that is faster than us is left out."""
    bench = report["bench"]
    parts = ["<h2>Time beside the others</h2>"]
    for shape in bench["shapes"]:
        ranked = sorted(shape["timed"].items(), key=lambda item: item[1]["median"])
        rows = [_timing(name, t) for name, t in ranked]
        head = ("engine", "median ms", "best", "worst", "rarefy is", "cosine to torch", "")
        parts.append(f"<h3>{escape(shape['shape'])}</h3>" + table(head, rows, ours="rarefy"))
    if bench.get("writing"):
        parts.append(_writing(bench["writing"]))
    rounds = len(next(iter(bench["shapes"][0]["timed"].values()))["rounds"])
    parts.append(f"<p class=soft>{rounds} interleaved rounds, {bench['threads']} thread(s) for everyone.</p>")
    if bench["skipped"]:
        listed = "; ".join(f"{name}: {why}" for name, why in bench["skipped"].items())
        parts.append(f"<p class=soft>Not timed: {escape(listed)}.</p>")
    return "".join(parts) + _sizes(report)


def _writing(found: Mapping[str, Any]) -> str:
    rows: list[list[Cell]] = []
    for name, t in sorted(found["timed"].items(), key=lambda item: item[1]["median"]):
        ratio: Cell = "" if name == "rarefy" else (("good" if t["ratio"] >= 1 else "bad"), f"{t['ratio']:.2f}x as fast")
        numbers = [f"{t[key]:.2f}" for key in ("median", "best", "worst")]
        rows.append([name, *numbers, f"{1000.0 / t['median']:.1f}", ratio, f"{t['same']:.0%}"])
    head = ("engine", "ms a token", "best", "worst", "tokens a second", "rarefy is", "tokens as sparse torch")
    return f"<h3>{found['tokens']} tokens behind {found['prompt']}, greedy</h3>" + table(head, rows, ours="rarefy")


def _timing(name: str, t: Mapping[str, Any]) -> list[Cell]:
    wrong = t["precision"] == "fp32" and (t["error"] is None or t["error"] > 1e-3)
    note: Cell = ("bad", "wrong output") if wrong else (f"int8, up to {t['isa']}" if t["isa"] else t["precision"])
    ratio: Cell = "" if name == "rarefy" else (("good" if t["ratio"] >= 1 else "bad"), f"{t['ratio']:.2f}x as fast")
    numbers = [f"{t[key]:.2f}" for key in ("median", "best", "worst")]
    return [name, *numbers, ratio, f"{t['cosine']:.4f}", note]


def _sizes(report: Report) -> str:
    file, memory = report["file"], report.get("memory") or {}
    rows: list[Sequence[Cell]] = [
        ("file, whole model", _mb(file["dense_bytes"]), _mb(file["file_bytes"])),
        ("file, pruned layers", _mb(file["pruned_dense_bytes"]), _mb(file["pruned_file_bytes"])),
    ]
    if memory.get("dense") and memory.get("compiled"):
        words = {
            "run_peak": "peak memory, running",
            "ready_peak": "peak memory, until ready",
            "imports": "of it, imports",
        }
        for key, what in words.items():
            rows.append((what, f"{memory['dense'][key]:.0f} MiB", f"{memory['compiled'][key]:.0f} MiB"))
    return "<h2>Bytes</h2>" + table(("what", "dense", "rarefy"), rows)


def _mb(count: float) -> str:
    return f"{count / 1e6:.1f} MB"


def query(report: Report) -> str:
    """The answers of both models, side by side."""
    asked = report.get("query")
    if not asked:
        return ""
    sides = []
    for name, hits in asked["answers"].items():
        items = "".join(f"<li><b>{h['score']:.3f}</b> {escape(h['passage'])}</li>" for h in hits)
        sides.append(f"<div><h3>{escape(name)}</h3><ol>{items}</ol></div>")
    return (
        f"<h2>One query, both models</h2><p>{escape(asked['query'])}</p><div class=sides>{''.join(sides)}</div>"
        f"<p class=soft>{asked['in_common']} of {asked['top']} answers in common, among unseen passages.</p>"
    )


def facts(known: Mapping[str, Any]) -> str:
    """Names and values, nested ones in one line."""

    def said(value: Any) -> str:
        return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)

    return table(("what", "value"), [(key, ("text", said(value))) for key, value in known.items()])
