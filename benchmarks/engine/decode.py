"""Decoding at batch 1, Llama shape d 2048, ff 5632, 6 layers, 32 heads, 4 KV heads, vocabulary 8192, beside llama.cpp.

Random weights serve for speed. int4 prunes whole groups of 16 inputs; the other types have zeros anywhere.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from harness import HERE, READ, Sides, Target, Timed, Turn, options, reading, report, show, table, timed
from process import PeerError, interpreter

import rarefy

sys.path.insert(0, str(HERE.parent / "decode"))
from model import llama

PROMPT, NEW = 64, 16
OURS: dict[str, dict[str, str]] = {  # of a model with half of its block weights zero
    "rarefy fp32 50 %": {},
    "rarefy bf16 50 %": {"weights": "bf16"},
    "rarefy int8 50 %": {"weights": "int8", "activations": "int8"},
    "rarefy int4 groups 50 %": {"weights": "int4", "activations": "int8"},
}
TYPES = ("F32", "Q8_0", "Q4_0")


def tokens(fast: Any) -> Turn:
    """Seconds of each token of one generation."""
    ids = torch.randint(0, fast.config.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(0))

    def turn(seconds: float, most: int) -> list[float]:
        fast.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=-1)
        return list(fast.last.tokens)

    return turn


def drop_groups(model: torch.nn.Module, density: float, size: int = 16) -> None:
    """Zeros in whole groups of `size` inputs of a row."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "layers" in name:
            kept = torch.rand(parameter.shape[0], parameter.shape[1] // size, generator=generator) < density
            parameter.data *= kept.repeat_interleave(size, 1)


def moved(fast: Any) -> float:
    """Gigabytes that a token reads: the packed weights, and the cache about half-way through a turn."""
    first = {id(chosen.at(1)): chosen.at(1).nbytes for chosen in fast._runner.plan.all()}
    return (sum(first.values()) + fast.cache(1, PROMPT + NEW // 2).nbytes) / 1e9


def main() -> None:
    asked = options(__doc__)
    sides, sizes = Sides(), {}
    for name, types in OURS.items():
        try:
            net = llama(0.0 if "groups" in name else 0.5)
            if "groups" in name:
                drop_groups(net, 0.5)
            fast = rarefy.compile(net, {"input_ids": torch.zeros(1, PROMPT, dtype=torch.int64)}, **types)
            sizes[name], sides.turns[name] = moved(fast), tokens(fast)
            show({name: {row.name: row.kernel for row in fast.explain().rows[:5]}})
        except Exception as error:
            sides.missing[name] = f"{type(error).__name__}: {error}"[:200]
    with tempfile.TemporaryDirectory() as scratch:
        for kind in TYPES:
            _llama_cpp(sides, sizes, kind, Path(scratch))
        sides.turns[READ] = reading()
        got = timed(sides, 3 if asked.quick else 7, 0.3, 16)
        sides.close()
    rates = {name: sizes[name] / got.ms(name) * 1e3 for name in got.rounds if name != READ}
    rows = [[n, sizes[n] * 1e3, got.ms(n), rate, got.share(n, sizes[n])] for n, rate in rates.items()]
    head = ["", "MB a token", "ms a token", "GB/s", "share of read bandwidth"]
    body = f"Memory gave {got.bandwidth():.1f} GB/s in the same rounds.\n\n{table(head, rows)}"
    shares = {row[0]: row[4] for row in rows}
    targets = [
        Target(f"{name}: bytes over time, share of read bandwidth", 0.8, shares.get(name)) for name in list(OURS)[:3]
    ]
    targets += [
        _target(got, "rarefy int8 50 %", "llama.cpp Q8_0", 1.8),
        _target(got, "rarefy int8 50 %", "llama.cpp Q4_0", 1.0),
        _target(got, "rarefy int4 groups 50 %", "llama.cpp Q4_0", 1.4),
    ]
    report("decode", "Decoding at batch 1", body, targets, sides.missing, asked, {"a token": got.without_reading()})


def _llama_cpp(sides: Sides, sizes: dict[str, float], kind: str, scratch: Path) -> None:
    peer = os.environ.get("RAREFY_LLAMA", "llama")
    name, file = f"llama.cpp {kind}", scratch / f"{kind}.gguf"
    try:
        writer = HERE.parent / "peers" / "write_gguf.py"
        subprocess.run([interpreter(peer), writer, file, "--type", kind], check=True)
    except (PeerError, subprocess.CalledProcessError) as error:
        sides.missing[name] = str(error)[:200]
        return
    options = ["--threads", str(torch.get_num_threads()), "--context", str(PROMPT)]
    sides.peer(name, peer, "run_llama.py", str(file), *options)
    sizes[name] = file.stat().st_size / 1e9


def _target(got: Timed, ours: str, theirs: str, wanted: float) -> Target:
    there = ours in got.rounds and theirs in got.rounds
    return Target(f"{ours}, times {theirs}", wanted, got.ratio(ours, theirs) if there else None)


if __name__ == "__main__":
    main()
