"""What a report looks like in a terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

Report = Mapping[str, Any]


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """A plain table; its cells are text, never markup."""
    table = Table(*columns, title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def print_report(report: Report, console: Console, paths: Sequence[Path]) -> None:
    """The one table, the times of everyone, the query, the targets, and where the files are."""
    console.print(summary(report))
    for table in bench_tables(report["bench"]):
        console.print(table)
    if report.get("query"):
        console.print(_query(report["query"]))
    if report.get("targets"):
        console.print(_targets(report["targets"]))
    for name, why in report["prune"]["skipped"].items():
        console.print(f"left alone: {name}: {why}", markup=False, highlight=False)
    console.print(f"{report['seconds']:.0f} s in all; wrote {', '.join(map(str, paths))}", highlight=False)


def summary(report: Report) -> Table:
    """Quality, ms, speed-up, bytes on disk and peak memory, dense beside sparse."""
    file, memory, timing = report["file"], report.get("memory") or {}, report["prune"].get("timing")
    rows = [["zeros in the pruned layers", "", f"{report['prune']['sparsity']:.2%}"]]
    for name, quality in _qualities(report):
        if quality.get("perplexity") is not None:
            both = [f"{quality[which]:.2f}" for which in ("dense_perplexity", "perplexity")]
            rows.append([f"perplexity on unseen text, {name}", *both])
        rows.append([f"mean cosine to dense, {name}", "1", f"{quality['cosine']:.4f}"])
        if quality["overlap"] is not None:
            rows.append([f"top-{quality['top']} overlap, {name}", "1", f"{quality['overlap']:.3f}"])
    for shape in report["bench"]["shapes"]:
        rows += _shape_rows(shape)
    if report["bench"].get("writing"):
        rows.append(_token_row(report["bench"]["writing"]))
    if timing:
        what = f"pruned layers alone, {timing['tokens']} tokens"
        speed = f"{timing['sparse_ms']:.2f} ms ({timing['speedup']:.2f}x)"
        rows.append([what, f"{timing['dense_ms']:.2f} ms", speed])
    rows.append(_bytes("file, whole model", file["dense_bytes"], file["file_bytes"]))
    rows.append(_bytes("file, pruned layers", file["pruned_dense_bytes"], file["pruned_file_bytes"]))
    if memory.get("dense") and memory.get("compiled"):
        both = [f"{memory[which]['run_peak']:.0f} MiB" for which in ("dense", "compiled")]
        rows.append([f"peak memory, running {memory['shape']}", *both])
        both = [f"{memory[which]['ready_peak']:.0f} MiB" for which in ("dense", "compiled")]
        rows.append(["peak memory, until ready", *both])
    title = f"{report['model']['name']}, {report['job']['method']}"
    return grid(("", "dense", "rarefy"), rows, title)


def _shape_rows(shape: Mapping[str, Any]) -> list[list[str]]:
    ours, torch = shape["timed"]["rarefy"], shape["timed"].get("torch")
    if torch is None:
        return [[f"time, {shape['shape']}", "", f"{ours['median']:.2f} ms"]]
    speed = f"{ours['median']:.2f} ms ({torch['ratio']:.2f}x)"
    return [[f"time, {shape['shape']}", f"{torch['median']:.2f} ms", speed]]


def _token_row(writing: Mapping[str, Any]) -> list[str]:
    ours, torch = writing["timed"]["rarefy"], writing["timed"].get("torch")
    what, speed = f"time a token, behind {writing['prompt']}", f"{ours['median']:.2f} ms"
    return [what, f"{torch['median']:.2f} ms", f"{speed} ({torch['ratio']:.2f}x)"] if torch else [what, "", speed]


def _qualities(report: Report) -> list[tuple[str, Mapping[str, Any]]]:
    names = {"pruned": "after pruning", "recovered": "after recovery"}
    found = [(names[key], quality) for key, quality in report["quality"].items()]
    if report.get("compiled_quality"):
        found.append(("compiled", report["compiled_quality"]))
    if report.get("magnitude"):
        found += [(f"magnitude, {names[key]}", quality) for key, quality in report["magnitude"]["quality"].items()]
    return found


def _bytes(what: str, dense: int, sparse: int) -> list[str]:
    return [what, f"{dense / 1e6:.1f} MB", f"{sparse / 1e6:.1f} MB ({sparse / max(1, dense):.0%})"]


def bench_tables(bench: Mapping[str, Any]) -> list[Table]:
    """One table a shape, the fastest first."""
    tables = []
    for shape in bench["shapes"]:
        rows = []
        for name, t in sorted(shape["timed"].items(), key=lambda item: item[1]["median"]):
            ratio = "" if name == "rarefy" else f"{t['ratio']:.2f}x as fast"
            numbers = [f"{t[key]:.2f}" for key in ("median", "best", "worst")]
            rows.append([name, *numbers, ratio, f"{t['cosine']:.4f}", _note(t)])
        columns = ("engine", "median ms", "best", "worst", "rarefy is", "cosine to torch", "")
        tables.append(grid(columns, rows, f"{shape['shape']}, {bench['threads']} thread(s), {bench['cpu']}"))
    if bench.get("writing"):
        tables.append(_writing_table(bench["writing"]))
    if bench["skipped"]:
        tables.append(grid(("not timed", "why"), [[name, why] for name, why in bench["skipped"].items()]))
    return tables


def _writing_table(writing: Mapping[str, Any]) -> Table:
    rows = []
    for name, t in sorted(writing["timed"].items(), key=lambda item: item[1]["median"]):
        ratio = "" if name == "rarefy" else f"{t['ratio']:.2f}x as fast"
        numbers = [f"{t[key]:.2f}" for key in ("median", "best", "worst")]
        rows.append([name, *numbers, f"{1000.0 / t['median']:.1f}", ratio, f"{t['same']:.0%}"])
    rows += [[name, "", "", "", "", why, ""] for name, why in writing["skipped"].items()]
    columns = ("engine", "ms a token", "best", "worst", "tokens/s", "rarefy is", "as sparse torch")
    return grid(columns, rows, f"{writing['tokens']} tokens behind {writing['prompt']}, greedy")


def _note(t: Mapping[str, Any]) -> str:
    wrong = t["precision"] == "fp32" and (t["error"] is None or t["error"] > 1e-3)
    return "WRONG OUTPUT" if wrong else f"int8, up to {t['isa']}" if t["isa"] else t["precision"]


def _query(asked: Mapping[str, Any]) -> Table:
    table = Table(*asked["answers"], title=asked["query"], box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1))
    for hits in zip(*asked["answers"].values(), strict=True):
        table.add_row(*(Text(f"{hit['score']:.3f}  {hit['passage'][:150]}") for hit in hits))
    return table


def _targets(targets: Sequence[Mapping[str, Any]]) -> Panel:
    lines = [
        f"{t['name']}: {t['measured']:.3f}, target {'<=' if t['name'] == 'file' else '>='} {t['target']:g}: "
        + ("met" if t["met"] else "MISSED")
        for t in targets
    ]
    return Panel(Text("\n".join(lines)), title="targets", title_align="left", expand=False)
