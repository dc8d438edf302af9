"""Sums by a small model of bytes: dense, with activation sparsity, and with that corrected by Sirius.

    python benchmarks/activations/arithmetic.py --out FOLDER [--steps 800] [--write]

An OPT of 2 blocks (width 128, 512 neurons) reads 16 digits and writes their 16 running sums, a number a byte. A wrong
sum spoils all that follow, as in a chain of thought; an answer counts as right if all of it is. The trained model is
kept in FOLDER. Each share of zeros is TEAL's, the same at all inputs of all projections, with 64 sums to calibrate on.
All sides are compiled, and timed in turn on the same prompts. One thread: OMP_NUM_THREADS=1.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rarefy
from rarefy.activations.sirius import Sirius
from rarefy.engine.cpu import cpu_name
from rarefy.selectors import detach

HERE = Path(__file__).parent
NEW, ROWS, RATE, PROBLEMS, ROUNDS = 16, 64, 2e-3, 200, 5
PROMPT = NEW + 1


def sums(count: int, seed: int) -> Tensor:
    """(count, PROMPT + NEW) bytes: digits as 16 to 25, 1 for "=", and their running sums as 32 and more."""
    digits = torch.randint(0, 10, (count, NEW), generator=torch.Generator().manual_seed(seed))
    return torch.cat([16 + digits, torch.ones(count, 1, dtype=torch.long), 32 + digits.cumsum(1)], 1)


def fresh() -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "word_embed_proj_dim": 128, "ffn_dim": 512, "num_hidden_layers": 2}
    model: nn.Module = OPTForCausalLM(
        OPTConfig(
            **sizes, vocab_size=256, num_attention_heads=4, max_position_embeddings=64, pad_token_id=0, dropout=0.0
        )
    )
    return model.eval()


def trained(out: Path, steps: int) -> nn.Module:
    model, file = fresh(), out / f"arithmetic-{steps}.pt"
    if file.exists():
        model.load_state_dict(torch.load(file))
        return model
    adam = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        for group in adam.param_groups:
            warm = min(1.0, (step + 1) / 50)
            group["lr"] = RATE * warm * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        rows = sums(ROWS, 10 + step)
        logits = model(input_ids=rows[:, :-1]).logits[:, PROMPT - 1 :]
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, PROMPT:].flatten())
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        if step % 100 == 99:
            print(step + 1, float(loss.detach()), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), file)
    return model


Answer = Callable[[Tensor], Tensor]  # (1, PROMPT) to (1, PROMPT + NEW)


def plain(fast: Any) -> Answer:
    def answer(prompt: Tensor) -> Tensor:
        made: Tensor = fast.generate(prompt, max_new_tokens=NEW, do_sample=False, eos_token_id=-1)
        return made

    return answer


def corrected(fast: Any, rules: Sirius, made: list[Any]) -> Answer:
    def answer(prompt: Tensor) -> Tensor:
        made.append(rules.generate(fast, prompt, NEW))
        tokens: Tensor = made[-1].tokens
        return tokens

    return answer


def right(answer: Answer, rows: Tensor) -> float:
    """Per cent of the answers."""
    return 100 * statistics.fmean(float(torch.equal(answer(row[None, :PROMPT]), row[None])) for row in rows)


def milliseconds(sides: dict[str, Answer], rows: Tensor) -> dict[str, list[float]]:
    """Of one answer with its prompt, by side and round."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, answer in sides.items():
            began = time.perf_counter()
            for row in rows:
                answer(row[None, :PROMPT])
            found[name].append((time.perf_counter() - began) / len(rows) * 1e3)
    return found


def measured(model: nn.Module, sparsity: float, rows: Tensor) -> list[str]:
    """Lines of the table at one share of zeros."""
    example, calibration = {"input_ids": rows[:1]}, [{"input_ids": sums(64, 1)}]
    dense = rarefy.compile(model, example)
    rarefy.sparsify_activations(model, "teal", sparsity=sparsity, data=calibration, allocation="uniform")
    sparse = rarefy.compile(model, example)
    counts: dict[str, list[Any]] = {"Sirius, period 4": [], "Sirius, period 8": [], "Sirius, period 8, exact": []}
    sides = {"dense": plain(dense), "sparse alone": plain(sparse)}
    for (name, made), rules in zip(counts.items(), (Sirius(4), Sirius(8), Sirius(8, exact=True)), strict=True):
        sides[name] = corrected(sparse, rules, made)
    shares = {name: right(answer, rows) for name, answer in sides.items()}
    advances = {name: sum(m.new for m in made) / sum(m.checks for m in made) for name, made in counts.items()}
    times = milliseconds(sides, rows[:30])
    detach(model)
    lines = []
    for name in sides:
        ends = f"{statistics.median(times[name]):.2f} ({min(times[name]):.2f} to {max(times[name]):.2f})"
        advance = f"{advances[name]:.2f}" if name in advances else "-"
        lines.append(f"| {sparsity:.0%} | {name} | {shares[name]:.1f} % | {advance} | {ends} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.6, 0.7])
    parser.add_argument("--write", action="store_true", help="write arithmetic.md beside this file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, rows = trained(asked.out, asked.steps), sums(PROBLEMS, 2)
    head = "| zeros asked | side | answers right | bytes a check | ms an answer |\n|---|---|---|---|---|"
    lines = [line for sparsity in asked.sparsities for line in measured(model, sparsity, rows)]
    table = "\n".join([head, *lines])
    print(table)
    if asked.write:
        said = f"{asked.steps} steps of {ROWS} sums, {PROBLEMS} others to measure on; {cpu_name()}, one thread."
        file = HERE / "arithmetic.md"
        kept = file.read_text("utf-8").partition("\n## ")[1:] if file.exists() else ("", "")
        about = " ".join(__doc__.split("\n\n")[2].split())
        file.write_text(f"# Sums, corrected\n\n{about}\n\n{said}\n\n{table}\n{''.join(kept)}", "utf-8")


if __name__ == "__main__":
    main()
