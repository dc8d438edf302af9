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
from torch import Tensor, nn  # noqa: E402

from rarefy.training.trainer import SparseTrainer  # noqa: E402

__all__ = [
    "Sides",
    "Target",
    "Timed",
    "held",
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


def _bytes(things: Any) -> int:
    if isinstance(things, Tensor):
        return things.nbytes
    values = things.values() if isinstance(things, dict) else things if isinstance(things, list | tuple) else ()
    return sum(_bytes(value) for value in values)


def held(model: nn.Module, optimizer: torch.optim.Optimizer, trainer: SparseTrainer | None = None) -> int:
    """Bytes of weights, gradients, optimizer state, masks or indexes, and of what the method remembers."""
    own = sum(p.nbytes + (0 if p.grad is None else p.grad.nbytes) for p in model.parameters())
    memory = own + sum(_bytes(state) for state in optimizer.state.values())
    for state in trainer.run.states if trainer is not None else ():
        memory += state.mask.nbytes if state.packed is None else state.packed.nbytes
        memory += _bytes([t for t in (state.tried, state.master) if t is not None]) + _bytes(state.extra)
    return memory


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
