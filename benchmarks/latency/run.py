"""MiniLM at asked speed-ups: what is reached after how many rounds, and the quality left.

    python benchmarks/latency/run.py [--rows 1] [--method sparsegpt] [--targets 1.5 2.0 2.5] [--threads 2]
        [--allocations latency uniform erk] [--weights fp32 --activations fp32] [--under "taskset -c 0,1"]

Adds to results-<rows>.md beside this file, a row a target and allocation. The steps are those of
`rarefy.prune(..., target_speedup=...)`, put together here so that the layers' errors are found once for all targets
(kept in `--work`). Whatever is timed runs in a process of its own, with `--threads` threads. Quality is the mean cosine
to the dense model's embeddings on 300 passages that no method saw.
"""

import argparse
import copy
import pickle
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from apart import apart
from torch import nn

from rarefy.calibration.batches import inference
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Pattern
from rarefy.core.site import find_sites
from rarefy.engine.cpu import cpu_name
from rarefy.engine.plan import tokens_of
from rarefy.engine.precision import Precision
from rarefy.pruning.resolve import resolve_method
from rarefy.recipes.demo import model_folder
from rarefy.recipes.encoder import TextModel, load_text_model
from rarefy.recipes.target_job import Job, least_loss, spread
from rarefy.recipes.target_losses import Losses
from rarefy.recipes.target_plan import Search
from rarefy.recipes.target_solve import solve_to_speed
from rarefy.recipes.target_times import Calm, LayerTimes, Speed, measured_speed
from rarefy.recipes.text import split, topic_passages

HERE = Path(__file__).parent
ALLOCATIONS = ("latency", "uniform", "erk")
CALIBRATION = 128
HEAD = """MiniLM, {rows} x 128 tokens, {method}, {calibration} calibration passages, {cpu}, {threads} threads.
`python benchmarks/latency/run.py --rows {rows}` adds the rows.
First: what the first solve measured, before any correction.

| asked | types | zeros spread by | first | reached | off by | rounds | zeros | cosine to dense | minutes |
|---|---|---|---|---|---|---|---|---|---|
"""


def layer_times(model: nn.Module, inputs: Any, pattern: Pattern, precision: Precision) -> LayerTimes:
    """Times of every layer, measured now where the cache does not have them."""
    sites, _ = find_sites(model)
    with inference(model):
        times = LayerTimes(pattern, tokens_of(model, sites, lambda: model(**inputs)), precision)
    for site in sites:
        times(site, 1.0)
    return times


class Bench:
    """What all cells share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.work = Path(args.work or tempfile.mkdtemp())
        self.work.mkdir(parents=True, exist_ok=True)
        self.text: TextModel = load_text_model(model_folder())
        self.model = self.text.model
        self.parts = split(topic_passages(self.text.count()), 300, 0)
        self.name, self.one_shot = resolve_method(args.method, {})
        self.inputs = self.text.example(args.rows, 128)
        self.precision = Precision(args.weights, args.activations)
        self.batches = self.text.batches(self.parts.train[:CALIBRATION])
        self.apart = partial(apart, under=args.under, threads=args.threads)
        self.calm = Calm(self.speed)

    def speed(self, sparse: nn.Module, dense: nn.Module, inputs: Any) -> Speed:
        return self.apart(partial(measured_speed, sparse, dense, inputs, self.precision))

    def losses(self) -> Losses:
        """The method's layer errors and their reach."""
        kept = self.work / "losses"
        if not kept.exists():
            sites, _ = find_sites(self.model)
            found = Losses(self.model, self.one_shot, self.one_shot.pattern, sites, self.batches)
            kept.write_bytes(pickle.dumps(found))
        losses: Losses = pickle.loads(kept.read_bytes())
        return losses

    def row(self, target: float, allocation: str, losses: Losses, times: LayerTimes) -> str:
        """One cell: search, solve, measure, correct."""
        began, model = time.perf_counter(), copy.deepcopy(self.model)
        sites, _ = find_sites(model)
        job = Job(model, self.one_shot, self.one_shot.pattern, sites, self.inputs, (), target, self.calm)
        with inference(model):
            ours = allocation == "latency"
            search = Search(job, least_loss(job, times, losses) if ours else spread(job, allocation, times), times)
            solved = solve_to_speed(job, search.run(), search, self.batches)
        reached, minutes = solved.speed.ratio, (time.perf_counter() - began) / 60
        zeros = sum(s.zeros for s in solved.report.sites) / sum(s.shape[0] * s.shape[1] for s in sites)
        dense = self.text.embed(self.parts.evaluation)
        cosine = float((self.text.embed(self.parts.evaluation, model) * dense).sum(1).mean())
        for r in solved.rounds:
            print(
                f"  layers {r.layers_ms:.2f} ms: {r.dense_ms:.2f} / {r.compiled_ms:.2f} ms = {r.speedup:.2f}",
                flush=True,
            )
        types = f"{self.precision.weights}/{self.precision.activations}"
        return (
            f"| {target:g}x | {types} | {allocation} | {solved.rounds[0].speedup:.2f}x | {reached:.2f}x | "
            f"{reached / target - 1:+.1%} | {len(solved.rounds)} | {zeros:.1%} | {cosine:.3f} | {minutes:.1f} |"
        )

    def run(self) -> None:
        page = HERE / f"results-{self.args.rows}.md"
        if not page.exists():
            said = {"rows": self.args.rows, "method": self.name, "calibration": CALIBRATION, "cpu": cpu_name()}
            page.write_text(HEAD.format(**said, threads=self.args.threads), encoding="utf-8")
        losses = self.losses()
        given = self.model, self.inputs, self.one_shot.pattern, self.precision
        times: LayerTimes = self.apart(partial(layer_times, *given))
        for target in self.args.targets:
            for allocation in self.args.allocations:
                try:
                    row = self.row(target, allocation, losses, times)
                except SparsityError as error:
                    row = f"| {target:g}x | {self.args.weights} | {allocation} | {error} |"
                print(row, flush=True)
                with page.open("a", encoding="utf-8") as file:
                    file.write(row + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--method", default="sparsegpt")
    parser.add_argument("--targets", type=float, nargs="+", default=[1.5, 2.0, 2.5])
    parser.add_argument("--allocations", nargs="+", choices=ALLOCATIONS, default=["latency"])
    parser.add_argument("--weights", default="fp32")
    parser.add_argument("--activations", default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--under", default="")
    parser.add_argument("--work")
    Bench(parser.parse_args()).run()


if __name__ == "__main__":
    import run  # as a module with a name, which the other process can import

    run.main()
