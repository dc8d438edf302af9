"""Calls of a training step, timed in turn; the engine's harness with gradients on."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "engine"), str(HERE.parent / "peers")]

import torch  # noqa: E402
from harness import Sides, Target, Timed, local, machine, options, table, timed  # noqa: E402
from torch import nn  # noqa: E402

__all__ = [
    "Sides",
    "Target",
    "Timed",
    "local",
    "machine",
    "options",
    "page",
    "stack",
    "steps",
    "table",
    "timed",
    "training",
]


def stack(width: int, depth: int) -> nn.Sequential:
    """Linear layers of one width with ReLU between them; weights from seed 0."""
    torch.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())][:-1])


def steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[], Any], tokens: int, width: int
) -> Callable[[], float]:
    """A training step on one random batch (tokens, width), again and again; what it returns is the loss before it."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(tokens, width, generator=generator) for _ in range(2))

    def call() -> float:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        step()
        return float(loss.detach())

    return call


def training(call: Callable[[], Any]) -> Callable[[float, int], list[float]]:
    """A turn of calls in this process, gradients on; one before the counted ones warms the caches."""

    def turn(seconds: float, most: int) -> list[float]:
        taken: list[float] = []
        call()
        while not taken or (sum(taken) < seconds and len(taken) < most):
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
        return taken

    return turn


def page(name: str, title: str, body: str, targets: Sequence[Target], missing: dict[str, str], asked: Any) -> None:
    """Prints the page and writes <name>.md beside this file."""
    flags = "".join(f" --{flag}" for flag in ("quick", "vnni") if getattr(asked, flag))
    left = "\n".join(f"- not there: {side}: {why}" for side, why in missing.items())
    aims = "\n".join(map(str, targets))
    head = f"# {title}\n\n`python benchmarks/training/{name}.py{flags}`; {machine()}"
    text = f"{head}\n\n{body}\n\n## Targets\n\n{aims}\n{left}"
    print(text)
    if not asked.no_write:
        (HERE / (name.replace("_", "-") + "-vnni" * asked.vnni + ".md")).write_text(text.rstrip() + "\n")
