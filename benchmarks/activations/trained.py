"""Loss against density of a small language model of bytes that is trained with sparse activations, at equal steps.

    python benchmarks/activations/trained.py --data ../shared/data --out FOLDER [--steps 300] [--seeds 1] [--write]

A Llama of 4 layers (width 128, feed-forward 384, context 128), trained from scratch on the first 95 % of
tinyshakespeare and measured on 64 windows of the rest. Each way of training and seed is a cell in FOLDER, so the same
command goes on where it was stopped; --only NAME takes one way. The seed draws the first weights; means, and in
brackets the smallest to the largest. `weights read`: share of the projections' weights that a token's products need:
columns of inputs that are not zero, and of the up projection only the rows of neurons whose activation is not zero.
"""

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.activations.deft import Deft
from rarefy.activations.penalty import L1, ActivationPenalty
from rarefy.activations.prosparse import ProSparse
from rarefy.activations.q_sparse import QSparse, settle
from rarefy.activations.relufication import Relufication
from rarefy.activations.turbo_sparse_drelu import DReLU
from rarefy.recipes.evaluations.language import Perplexity, batches_of, next_token_loss
from rarefy.selectors import feed_forwards, projections

WINDOW, ROWS, RATE = 128, 12, 3e-3
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Text:
    """Bytes to learn from, and windows (64, 128) to measure on."""

    seen: Tensor
    unseen: Tensor

    def batch(self, step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        begins = torch.randint(0, len(self.seen) - WINDOW, (ROWS,), generator=generator)
        return {"input_ids": torch.stack([self.seen[b : b + WINDOW] for b in begins.tolist()])}


def read(data: Path) -> Text:
    raw = bytearray((data / "tinyshakespeare" / "input.txt").read_bytes())
    cut = int(len(raw) * 0.95)
    seen, rest = (torch.frombuffer(part, dtype=torch.uint8).long() for part in (raw[:cut], raw[cut:]))
    return Text(seen, rest[: 64 * WINDOW].view(64, WINDOW))


def fresh(seed: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"vocab_size": 256, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": WINDOW}
    model: nn.Module = LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=True))
    return model


class Loop:
    """Adam with a warm-up and half a cosine over `steps` in all; a penalty may come and go."""

    def __init__(self, model: nn.Module, text: Text, steps: int) -> None:
        self.model, self.text, self.steps, self.step = model, text, steps, 0
        self.adam = torch.optim.Adam(model.parameters(), lr=RATE, betas=(0.9, 0.95))

    def run(self, until: int, penalty: ActivationPenalty | None = None) -> None:
        self.model.train()
        while self.step < until:
            done = self.step / self.steps
            for group in self.adam.param_groups:
                group["lr"] = RATE * min(1.0, (self.step + 1) / 30) * (0.05 + 0.475 * (1 + math.cos(math.pi * done)))
            loss = next_token_loss(self.model, self.text.batch(self.step))
            if penalty is not None:
                loss = loss + penalty.loss()
                penalty.step()
            self.adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.adam.step()
            self.step += 1
        self.model.eval()


def measured(model: nn.Module, text: Text) -> dict[str, float]:
    """Bits a byte on the unseen windows, density of the hidden activations, share of the projections' weights read."""
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}
    layers = feed_forwards(model)
    hooks = [p.module.register_forward_hook(lambda m, a, y: inputs.update({m: a[0]})) for p in projections(model)]
    hooks += [f.activation.register_forward_hook(lambda m, a, y: outputs.update({m: y})) for f in layers]
    with torch.no_grad():
        model(**batches_of(text.unseen[:16], 16)[0])
    share = {m: float((x != 0).float().mean()) for m, x in inputs.items()}
    for layer in layers:
        share[layer.up] *= float((outputs[layer.activation] != 0).float().mean())
    for hook in hooks:
        hook.remove()
    sizes = {p.module: p.module.weight.numel() for p in projections(model)}
    return {
        "bits_per_byte": Perplexity(text.unseen)(model)["bits_per_byte"],
        "density": sum(share[layer.down] for layer in layers) / len(layers),
        "weights_read": sum(share[m] * n for m, n in sizes.items()) / sum(sizes.values()),
    }


Train = Callable[[Text, int, int], nn.Module]  # (text, steps, seed)


def plain(change: Callable[[nn.Module], Any]) -> Train:
    """Changed before the first step, and trained."""

    def run(text: Text, steps: int, seed: int) -> nn.Module:
        model = fresh(seed)
        change(model)
        Loop(model, text, steps).run(steps)
        return model

    return run


_dense: dict[tuple[int, int], nn.Module] = {}


def dense(text: Text, steps: int, seed: int) -> nn.Module:
    """A copy of the dense model, which is trained once a process."""
    if (steps, seed) not in _dense:
        _dense[steps, seed] = plain(lambda model: None)(text, steps, seed)
    return copy.deepcopy(_dense[steps, seed])


def prosparse(weight: float, threshold: float = 0.01, begin: float = 0.3) -> Train:
    """SiLU for a while, then ReLU with an L1 term that rises in two stages over what is left, then the threshold."""

    def run(text: Text, steps: int, seed: int) -> nn.Module:
        model = fresh(seed)
        loop, first = Loop(model, text, steps), int(begin * steps)
        loop.run(first)
        rest = steps - first
        method = ProSparse((rest // 10, rest // 2, rest), (weight / 10, weight / 2, weight), threshold)
        with method.begin(model) as penalty:
            loop.run(steps, penalty)
        method.finish(model)
        return model

    return run


def constant(weight: float, begin: float = 0.3) -> Train:
    """The impostor of ProSparse: the same switch, the L1 term whole from there on."""

    def run(text: Text, steps: int, seed: int) -> nn.Module:
        model = fresh(seed)
        loop = Loop(model, text, steps)
        loop.run(int(begin * steps))
        Relufication().apply(model)
        with ActivationPenalty(model, L1(), weight) as penalty:
            loop.run(steps, penalty)
        return model

    return run


def deft(alpha: float) -> Train:
    """ReLU from scratch with the smooth count in the loss."""

    def run(text: Text, steps: int, seed: int) -> nn.Module:
        model = fresh(seed)
        Relufication().apply(model)
        with Deft(alpha).attach(model) as penalty:
            Loop(model, text, steps).run(steps, penalty)
        return model

    return run


def masked(sparsity: float) -> Train:
    """The impostor of Q-Sparse: the same top-k, gradients of the kept inputs only."""

    def change(model: nn.Module) -> None:
        QSparse(sparsity).apply(model)
        settle(model)

    return plain(change)


def afterwards(change: Callable[[nn.Module], Any]) -> Train:
    """Trained dense, changed at the end, not trained after it."""

    def run(text: Text, steps: int, seed: int) -> nn.Module:
        model = dense(text, steps, seed)
        change(model)
        return model

    return run


def converted(change: Callable[[nn.Module], Any], more: float = 0.25) -> Train:
    """Trained dense, changed, and trained for a quarter of the steps more."""

    def run(text: Text, steps: int, seed: int) -> nn.Module:
        model = dense(text, steps, seed)
        change(model)
        loop = Loop(model, text, int(steps * (1 + more)))
        loop.step = steps  # other text than before, and the end of the rate's curve
        loop.run(loop.steps)
        return model

    return run


WAYS: dict[str, Train] = {
    "SiLU (dense)": dense,
    "ReLU": plain(Relufication().apply),
    "ReLU^2": plain(Relufication("squared").apply),
    "ReLU, inputs too": plain(Relufication(inputs=True).apply),
    "dReLU": plain(DReLU().apply),
    "SiLU, then ProSparse, weight 0.5": prosparse(0.5),
    "SiLU, then ProSparse, weight 2": prosparse(2.0),
    "SiLU, then constant L1, weight 0.5": constant(0.5),
    "SiLU, then constant L1, weight 2": constant(2.0),
    "ReLU with DEFT, alpha 0.3": deft(0.3),
    "Q-Sparse 50 %": plain(QSparse(0.5).apply),
    "Q-Sparse 50 %, 16:32": plain(QSparse(0.5, block=32).apply),
    "Q-Sparse 65 %": plain(QSparse(0.65).apply),
    "Q-Sparse 50 %, ternary": plain(QSparse(0.5, ternary=True).apply),
    "top-k 50 %, masked gradients": masked(0.5),
    "SiLU, top-k 50 % at the end": afterwards(QSparse(0.5, squared=False).apply),
    "SiLU, dReLU at the end": afterwards(DReLU().apply),
    "SiLU, dReLU, a quarter more": converted(DReLU().apply),
}


def cell(name: str, text: Text, steps: int, seed: int) -> dict[str, Any]:
    began = time.perf_counter()
    model = WAYS[name](text, steps, seed)
    return {"name": name, "steps": steps, "seed": seed, "seconds": time.perf_counter() - began, **measured(model, text)}


def table(cells: list[dict[str, Any]]) -> str:
    """A line a way of training: means over its seeds."""
    lines = ["| trained | seeds | bits a byte | hidden density | weights read |", "|---|---|---|---|---|"]
    for name in WAYS:
        found = [c for c in cells if c["name"] == name]
        if not found:
            continue
        bits = [c["bits_per_byte"] for c in found]
        shares = [f"{100 * statistics.mean(c[key] for c in found):.1f} %" for key in ("density", "weights_read")]
        spread = f" ({min(bits):.3f} to {max(bits):.3f})" if len(bits) > 1 else ""
        lines.append(f"| {name} | {len(found)} | {statistics.mean(bits):.3f}{spread} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="one way of training by its name")
    parser.add_argument("--write", action="store_true", help="write trained.json and trained.md beside this file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    text, cells = read(asked.data), []
    for seed in range(asked.seeds):
        for number, name in enumerate(WAYS):
            path = asked.out / f"{number:02d}-{asked.steps}-{seed}.json"
            if not path.exists() and asked.only in ("", name):
                path.write_text(json.dumps(cell(name, text, asked.steps, seed)))
            if path.exists():
                cells.append(json.loads(path.read_text()))
                print(cells[-1], flush=True)
    print(table(cells))
    if asked.write:
        (HERE / "trained.json").write_text(json.dumps(cells, indent=1) + "\n")
        head = f"# Trained with sparse activations\n\n{' '.join(__doc__.split(chr(10) * 2)[2].split())}\n\n"
        said = f"{asked.steps} steps of {ROWS} x {WINDOW} bytes each, {asked.seeds} seeds, one core.\n\n"
        page = HERE / "trained.md"
        kept = page.read_text().partition("\n## ")[1:] if page.exists() else ("", "")  # what was written by hand
        page.write_text(f"{head}{said}{table(cells)}\n{''.join(kept)}")


if __name__ == "__main__":
    main()
