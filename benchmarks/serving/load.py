"""A minute of good, slow, broken and hostile clients at once; then throughput beside the same models served dense.

    python benchmarks/serving/load.py [--seconds 60] [--rounds 3]

Serves an encoder and a language model, each on rarefy's kernels, and dense as torch runs it.
The clients run on the same cores. Writes results.md beside this file.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import clients
import models

from rarefy.recipes.environment import environment

HERE = Path(__file__).parent
PATHS = {"encoder": "/v1/embeddings", "writer": "/v1/completions"}
MANY = {"encoder": 8, "writer": 48}  # texts a request; tokens a text
UNIT = {"encoder": "texts/s", "writer": "tokens/s"}


@contextmanager
def server(folder: Path, port: int, *options: str) -> Iterator[int]:
    """`rarefy serve` in a process of its own, ready."""
    command = [sys.executable, "-m", "rarefy.cli.main", "serve", str(folder), "--port", str(port), "--name", "m"]
    log = (folder.parent / f"{port}.log").open("w")
    process = subprocess.Popen([*command, "--client-timeout", "3", *options], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 120
        while True:
            assert process.poll() is None and time.monotonic() < until, Path(log.name).read_text()
            try:
                metric(port, "process_resident_memory_bytes")
                break
            except OSError:
                time.sleep(0.1)
        yield port
        process.terminate()
        assert process.wait(60) == 0, Path(log.name).read_text()[-2000:]
    finally:
        process.kill()


def metric(port: int, name: str) -> float:
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", page, flags=re.M)
    return sum(map(float, found))


def crowd(
    kind: str, port: int, seconds: float, count: int, hostile: bool
) -> tuple[list[clients.Count], dict[str, int]]:
    """So many good clients for so long, and where asked one of each hostile kind."""
    until, names = time.monotonic() + seconds, list(clients.attacks(PATHS[kind])) if hostile else []
    with ThreadPoolExecutor(count + len(names)) as pool:
        good = [pool.submit(clients.good, kind, port, until, seed, MANY[kind]) for seed in range(count)]
        bad = {name: pool.submit(clients.attack, name, PATHS[kind], port, until) for name in names}
        return [one.result() for one in good], {name: one.result() for name, one in bad.items()}


def minute(kind: str, port: int, seconds: float) -> list[str]:
    """Rows of the table of a load with hostile clients."""
    crowd(kind, port, min(6.0, seconds), 4, True)  # the server's buffers have their size
    before = metric(port, "process_resident_memory_bytes") / 2**20
    good, bad = crowd(kind, port, seconds, 4, True)
    time.sleep(4)
    after, files = metric(port, "process_resident_memory_bytes") / 2**20, metric(port, "process_open_fds")
    ms = sorted(value for one in good for value in one.ms)
    failed = [why for one in good for why in one.failed]
    print(kind, failed[:3], bad, flush=True)
    share = f"{statistics.median(ms):.0f} / {ms[int(len(ms) * 0.99)]:.0f}"
    return [
        kind,
        str(len(ms)),
        str(len(failed)),
        share,
        str(sum(bad.values())),
        f"{before:.0f} -> {after:.0f}",
        f"{files:.0f}",
    ]


def rate(kind: str, port: int, seconds: float) -> float:
    """What four good clients get in a second."""
    began = time.monotonic()
    good, _ = crowd(kind, port, seconds, 4, False)
    return sum(one.done for one in good) / (time.monotonic() - began)


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.environ["RAREFY_CACHE_DIR"] = f"{work}/cache"
        folders = models.make(Path(work))
        load = loaded(folders, args.seconds)
        rates = throughput(folders, args.rounds)
    write(load, rates, args)


def loaded(folders: dict[str, Path], seconds: float) -> list[list[str]]:
    """Rows of the load, both models at the same time, with a thread each: more would wait for each other."""
    with ExitStack() as stack, ProcessPoolExecutor(2) as pool:
        ports = [stack.enter_context(server(f, 8450 + i, "--threads", "1")) for i, f in enumerate(folders.values())]
        return list(pool.map(minute, folders, ports, [seconds] * len(ports)))


def throughput(folders: dict[str, Path], rounds: int) -> dict[tuple[str, str], list[float]]:
    """{(model, "dense" or "sparse"): what good clients got in a second, a round each}."""
    with ExitStack() as stack:
        ports = {
            (kind, how): stack.enter_context(server(folder, 8460 + i * 2 + j, *(["--dense"] if how == "dense" else [])))
            for i, (kind, folder) in enumerate(folders.items())
            for j, how in enumerate(("sparse", "dense"))
        }
        found: dict[tuple[str, str], list[float]] = {key: [] for key in ports}
        for _ in range(rounds):
            for (kind, how), port in ports.items():
                found[kind, how].append(rate(kind, port, 3))
        return found


def write(load: list[list[str]], rates: dict[tuple[str, str], list[float]], args: argparse.Namespace) -> None:
    rows = [
        [kind, UNIT[kind]]
        + [", ".join(f"{value:.0f}" for value in rates[kind, how]) for how in ("dense", "sparse")]
        + [f"{statistics.median(rates[kind, 'sparse']) / statistics.median(rates[kind, 'dense']):.2f}"]
        for kind in MANY
    ]
    where = environment()
    head = ["model", "good requests", "failed", "ms, median / 99 %", "attacks", "MiB before -> after", "open files"]
    text = f"""# A server under load

Measured by `python benchmarks/serving/load.py --seconds {args.seconds:g}` on {where["cpu"]},
{where["cores"]} cores, which the clients share, {where["isa"]}, {where["date"][:10]}.
Both models have 80 % zeros: all-MiniLM-L6 ({MANY["encoder"]} texts a request) and a Llama of 35 M random weights
({MANY["writer"]} tokens a text, streamed). Four good clients each, and one of each kind in `clients.py` that is slow,
broken or hostile, at both servers at the same time for {args.seconds:g} seconds, a thread each. MiB: of the
server's process.

{table(head, load)}

Throughput of four good clients alone, {args.rounds} interleaved rounds of 3 seconds, {where["threads"]} threads a
server, beside the same server with `--dense` (the same weights, zeros included, by torch and transformers):

{table(["model", "", "dense", "sparse", "times"], rows)}
"""
    (HERE / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
