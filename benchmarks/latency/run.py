"""MiniLM at asked speed-ups: what is reached, and the quality left, against uniform and ERK zeros at equal speed.

    python benchmarks/latency/run.py [--rows 1] [--method sparsegpt] [--targets 1.5 2.0 2.5]

Writes results-<rows>.md beside this file. The stages are those of `rarefy.prune(..., target_speedup=...)`, taken
apart so that the layers are solved once for all targets and that nothing else runs while a stage times (`--stage` runs
one, the others from what it left in `--work`). Quality is the mean cosine to the dense model's embeddings on 300
passages that no method saw.
"""

import argparse
import copy
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch

from rarefy.calibration.batches import inference
from rarefy.core.site import find_sites
from rarefy.engine.cpu import cpu_name
from rarefy.engine.plan import tokens_of
from rarefy.pruning.resolve import resolve_method
from rarefy.recipes.demo import model_folder
from rarefy.recipes.encoder import TextModel, load_text_model
from rarefy.recipes.target import Job, _layers_ms, _least_loss, _Search, _spread
from rarefy.recipes.target_losses import Losses
from rarefy.recipes.target_times import LayerTimes, measured_speed, pruned_as
from rarefy.recipes.text import split, topic_passages

HERE = Path(__file__).parent
ALLOCATIONS = ("latency", "uniform", "erk")
CALIBRATION = 128


class Bench:
    """What all stages share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.work = Path(args.work or tempfile.mkdtemp())
        self.work.mkdir(parents=True, exist_ok=True)
        self.text: TextModel = load_text_model(model_folder())
        self.model = self.text.model
        self.parts = split(topic_passages(self.text.count()), 300, 0)
        self.name, self.one_shot = resolve_method(args.method, {})
        self.sites, _ = find_sites(self.model)
        self.inputs = self.text.example(args.rows, 128)

    def batches(self) -> list[Any]:
        return self.text.batches(self.parts.train[:CALIBRATION])

    def job(self, target: float) -> Job:
        shot = self.one_shot
        return Job(self.model, shot, shot, shot.pattern, self.sites, self.inputs, (), target)

    def cells(self) -> list[tuple[float, str]]:
        return [(target, allocation) for target in self.args.targets for allocation in self.args.allocations]

    def file(self, target: float, allocation: str, kind: str) -> Path:
        return self.work / f"{kind}-{self.args.rows}-{target}-{allocation}"

    def losses(self) -> None:
        """The method's layer errors and their reach: slow, and nothing is timed."""
        found = Losses(self.model, self.one_shot, self.one_shot.pattern, self.sites, self.batches())
        (self.work / "losses").write_bytes(pickle.dumps(found))

    def search(self) -> None:
        """Densities for each target and allocation, by measured trials."""
        losses = pickle.loads((self.work / "losses").read_bytes())
        with inference(self.model):
            tokens = tokens_of(self.model, self.sites, lambda: self.model(**self.inputs))
            times = LayerTimes(self.one_shot.pattern, tokens)
            for target, allocation in self.cells():
                job = self.job(target)
                ours = allocation == "latency"
                allocate = _least_loss(job, times, losses) if ours else _spread(job, allocation, times)
                plan = _Search(job, allocate, times).run()
                said = {"densities": plan.densities, "trial": plan.speed.ratio, "trials": plan.trials}
                said |= {"layers": _layers_ms(job, times, plan.densities)}
                self.file(target, allocation, "plan").write_text(json.dumps(said))
                print(target, allocation, f"trial {plan.speed.ratio:.3f} after {plan.trials}", flush=True)

    def solve(self) -> None:
        """The method at those densities, and the quality left: nothing is timed."""
        dense = self.text.embed(self.parts.evaluation)
        for target, allocation in self.cells():
            densities = json.loads(self.file(target, allocation, "plan").read_text())["densities"]
            model = copy.deepcopy(self.model)
            sites, _ = find_sites(model)
            pattern = self.one_shot.pattern
            report = pruned_as(model, self.one_shot, sites, densities, pattern, (), data=self.batches())
            cosine = float((self.text.embed(self.parts.evaluation, model) * dense).sum(1).mean())
            total = sum(s.shape[0] * s.shape[1] for s in sites)
            said = {"zeros": sum(s.zeros for s in report.sites) / total, "cosine": cosine, "whole": len(report.skipped)}
            self.file(target, allocation, "solved").write_text(json.dumps(said))
            torch.save(model.state_dict(), self.file(target, allocation, "state"))
            print(target, allocation, said, flush=True)

    def measure(self) -> None:
        """The speed of the solved models."""
        for target, allocation in self.cells():
            model = copy.deepcopy(self.model)
            model.load_state_dict(torch.load(self.file(target, allocation, "state"), weights_only=True))
            speed = measured_speed(model, self.model, self.inputs)
            said = {"ratio": speed.ratio, "dense_ms": speed.dense_ms, "compiled_ms": speed.compiled_ms}
            self.file(target, allocation, "speed").write_text(json.dumps(said))
            print(target, allocation, said, flush=True)

    def table(self) -> None:
        """Writes the results."""
        lines = [
            f"MiniLM, {self.args.rows} x 128 tokens, {self.name}, {CALIBRATION} calibration passages, {cpu_name()}, "
            f"{torch.get_num_threads()} threads. `python benchmarks/latency/run.py --rows {self.args.rows}` writes it.",
            "",
            "| asked | zeros spread by | measured | off by | zeros | layers left whole | cosine to dense |",
            "|---|---|---|---|---|---|---|",
        ]
        for target, allocation in self.cells():
            solved, speed = (json.loads(self.file(target, allocation, k).read_text()) for k in ("solved", "speed"))
            off = speed["ratio"] / target - 1
            lines.append(
                f"| {target:g}x | {allocation} | {speed['ratio']:.2f}x | {off:+.1%} | {solved['zeros']:.1%} | "
                f"{solved['whole']} | {solved['cosine']:.3f} |"
            )
        (HERE / f"results-{self.args.rows}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


STAGES = ("losses", "search", "solve", "measure", "table")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--method", default="sparsegpt")
    parser.add_argument("--targets", type=float, nargs="+", default=[1.5, 2.0, 2.5])
    parser.add_argument("--allocations", nargs="+", choices=ALLOCATIONS, default=ALLOCATIONS)
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--work")
    args = parser.parse_args()
    bench = Bench(args)
    for stage in (args.stage,) if args.stage else STAGES:
        getattr(bench, stage)()


if __name__ == "__main__":
    main()
