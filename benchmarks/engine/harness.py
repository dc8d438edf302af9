"""What the engine's benchmarks share: sides timed in turn, ours and others', and the table that says what was met.

A side is anything that gives the seconds of some calls when it is its turn: a function here, or a peer in a process of
its own (benchmarks/peers). In a round every side has one turn; figures are medians over rounds, ratios are taken round
by round. On a shared machine two CPUs may be one core's for seconds or minutes: turns around which all threads at once
took longer over a product than one thread alone over its part are taken again.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "kernels"), str(HERE.parent / "peers")]

import ceiling  # noqa: E402
from process import Peer, PeerError  # noqa: E402

from rarefy import ops  # noqa: E402
from rarefy.engine.steady import steady  # noqa: E402

Turn = Callable[[float, int], list[float]]
_REST = 0.05  # seconds before a turn: engines keep threads of their own spinning after a call
_AGAIN = 3  # turns at most that are taken again, times those that count

# What each library reads so that it leaves out newer instructions: AVX-512 with VNNI and nothing beyond.
CAPPED = {
    "RAREFY_ISA": "vnni",
    # torch and OpenVINO; the level above VNNI, whose bf16 instructions neither float32 nor int8 uses: at VNNI itself
    # OpenVINO's int8 models fall back to something several times slower.
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
    "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    "ATEN_CPU_CAPABILITY": "avx512",
    "RAREFY_LLAMA": "llama-vnni",  # a peer built without AMX, BF16 and the like
}


def local(call: Callable[[], Any]) -> Turn:
    """A call in this process; one before the counted ones brings its memory back into the caches."""

    def turn(seconds: float, most: int) -> list[float]:
        taken: list[float] = []
        with torch.inference_mode():
            call()
            while not taken or (sum(taken) < seconds and len(taken) < most):
                begin = time.perf_counter()
                call()
                taken.append(time.perf_counter() - begin)
        return taken

    return turn


READ = "reading 256 MB"  # a side like any other: what memory gives changes from minute to minute on a shared machine
_READ_GB = 0.268435456


def reading() -> Turn:
    """Sums 256 MB of floats."""
    return local(torch.ones(64 << 20).sum)


@dataclass
class Sides:
    """Sides by name, and why some are not there."""

    turns: dict[str, Turn] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    _peers: list[Peer] = field(default_factory=list)

    def here(self, name: str, make: Callable[[], Callable[[], Any]]) -> None:
        """Adds a call of this process; what its making raises is why it is not there."""
        try:
            self.turns[name] = local(make())
        except Exception as error:
            self.missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]

    def peer(self, name: str, peer: str, script: str, *arguments: str) -> None:
        """Adds a peer in a process of its own."""
        try:
            served = Peer(peer, script, *arguments)
        except PeerError as error:
            self.missing[name] = str(error)[:200]
            return
        self._peers.append(served)
        self.turns[name] = served.turn

    def close(self) -> None:
        for peer in self._peers:
            peer.close()


@dataclass(frozen=True)
class Timed:
    """Milliseconds by side and round."""

    rounds: Mapping[str, Sequence[float]]
    again: int = 0  # turns left out for the machine's sake

    def ms(self, name: str) -> float:
        return median(self.rounds[name])

    def ratio(self, name: str, against: str) -> float:
        """How many times faster `name` is than `against`."""
        return median(b / a for a, b in zip(self.rounds[name], self.rounds[against], strict=True))

    def share(self, name: str, gigabytes: float) -> float:
        """The share of the bandwidth that the side READ reached in the same rounds."""
        return gigabytes / _READ_GB * self.ratio(name, READ)

    def bandwidth(self) -> float:
        """GB/s of the side READ."""
        return _READ_GB / self.ms(READ) * 1e3

    def without_reading(self) -> "Timed":
        return Timed({name: ms for name, ms in self.rounds.items() if name != READ}, self.again)

    def best(self, names: Sequence[str]) -> str:
        """The fastest of the names that were timed."""
        return min((n for n in names if n in self.rounds), key=self.ms)


def _calm() -> bool:
    """Whether the threads have a core each, asked when all sides' threads have come to rest."""
    time.sleep(_REST)
    asked = steady()
    return asked is None or asked.now()


def timed(sides: Sides, rounds: int, seconds: float = 0.15, most: int = 50) -> Timed:
    """One turn a side and round, in alternating order. Turns around which threads shared a core are taken again."""
    kept: list[dict[str, float]] = []
    again, calm = 0, _calm()
    for number in range(rounds):
        taken: dict[str, float] = {}
        for name in list(sides.turns)[:: 1 if number % 2 == 0 else -1]:
            while name not in taken:
                time.sleep(_REST)
                ms = median(sides.turns[name](seconds, most)) * 1e3
                before, calm = calm, _calm()
                if (before and calm) or again >= _AGAIN * rounds * len(sides.turns):
                    taken[name] = ms
                else:
                    again += 1
        kept.append(taken)
    return Timed({name: [taken[name] for taken in kept] for name in sides.turns}, again)


@dataclass(frozen=True)
class Target:
    """A sentence of what was aimed at, and what came out. `least`: the figure has to be at least `wanted`."""

    text: str
    wanted: float
    got: float | None

    def __str__(self) -> str:
        if self.got is None:
            return f"- not measured: {self.text}"
        word = "met" if self.got >= self.wanted else "MISSED"
        return f"- {word}: {self.text}: wanted {self.wanted:.2f}, got {self.got:.2f}"


def options(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it runs")
    parser.add_argument("--no-write", action="store_true", help="leave results/ as it is")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vnni", action="store_true", help="nobody uses instructions newer than AVX-512 VNNI")
    asked = parser.parse_args()
    if asked.vnni and any(os.environ.get(name) != value for name, value in CAPPED.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | CAPPED)  # before any library looks
    torch.set_num_threads(asked.threads)
    return asked


def machine() -> str:
    """The CPU, its ceilings measured now, and what ran."""
    peak, bandwidth = ceiling.multiply_adds(), ceiling.read_bandwidth()
    return (
        f"{date.today()}; {ceiling.cpu()}, {torch.get_num_threads()} threads; instruction sets up to "
        f"{ops.features()['isa']}; fp32 multiply {peak:.0f} GFLOP/s, read {bandwidth:.1f} GB/s; "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[f"{c:.2f}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    return "\n".join(["| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *cells)])


def report(
    name: str,
    title: str,
    body: str,
    targets: Sequence[Target],
    missing: Mapping[str, str],
    asked: argparse.Namespace,
    charts: Mapping[str, Timed],
) -> None:
    """Prints the page and writes results/<name>.md, with a chart of the times (title of each panel: times)."""
    flags = "".join(f" --{flag}" for flag in ("quick", "vnni") if getattr(asked, flag))
    command = f"python benchmarks/engine/{name}.py{flags}"
    left = "\n".join(f"- not there: {side}: {why}" for side, why in missing.items())
    aims = "\n".join(map(str, targets))
    again = sum(each.again for each in charts.values())
    slow = f" {again} turns around which threads shared a core were taken again." if again else ""
    page = f"# {title}\n\n`{command}`; {machine()}.{slow}\n\n{body}\n\n## Targets\n\n{aims}\n{left}\n"
    print(page)
    if not asked.no_write:
        (HERE / "results").mkdir(exist_ok=True)
        file = HERE / "results" / (name + "-vnni" * asked.vnni)
        file.with_suffix(".md").write_text(page + f"\n![Times of all sides]({file.name}.svg)\n")
        _draw(charts, title, file.with_suffix(".svg"))


def _draw(charts: Mapping[str, Timed], title: str, file: Path) -> None:
    """Bars of milliseconds, a panel a chart; a thin line spans the rounds."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "rarefy"  # the same figures give the same file
    bars = max(len(times.rounds) for times in charts.values())
    figure, panels = plt.subplots(1, len(charts), figsize=(5.5 * len(charts), 1.2 + 0.28 * bars), squeeze=False)
    for panel, (label, times) in zip(panels[0], charts.items(), strict=True):
        names = sorted(times.rounds, key=times.ms, reverse=True)
        middle = [times.ms(n) for n in names]
        down = [times.ms(n) - min(times.rounds[n]) for n in names]
        up = [max(times.rounds[n]) - times.ms(n) for n in names]
        colours = ["tab:green" if n.startswith("rarefy") else "tab:gray" for n in names]
        panel.barh(names, middle, color=colours, xerr=[down, up], error_kw={"elinewidth": 0.8})
        panel.set(title=label, xlabel="ms (log scale)", xscale="log")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def show(what: Any) -> None:
    """A line of progress."""
    print(json.dumps(what) if isinstance(what, dict) else what, file=sys.stderr, flush=True)
