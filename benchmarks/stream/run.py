"""Prunes a Llama-shaped model of random weights from shards to shards and reports the peak memory.

The model is written one shard at a time, each method runs in a process of its own, and all is deleted afterwards:

    python benchmarks/stream/run.py --work /a/folder/with/20/GB --methods wanda sparsegpt --out table.md

kill: seconds after which the process is killed with SIGKILL, and then started again until it is done.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SHAPE = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "vocab_size": 32000}
HEADS = {"num_attention_heads": 24, "num_key_value_heads": 8}


def shapes_of_layer(width: int, inner: int) -> dict[str, tuple[int, ...]]:
    small = width * HEADS["num_key_value_heads"] // HEADS["num_attention_heads"]
    return {
        "self_attn.q_proj.weight": (width, width),
        "self_attn.k_proj.weight": (small, width),
        "self_attn.v_proj.weight": (small, width),
        "self_attn.o_proj.weight": (width, width),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }


def write_model(folder: Path, shape: dict[str, int]) -> int:
    """A folder of bfloat16 shards, two layers each; the number of its parameters."""
    folder.mkdir(parents=True)
    width, vocabulary, layers = shape["hidden_size"], shape["vocab_size"], shape["num_hidden_layers"]
    layer = shapes_of_layer(width, shape["intermediate_size"])
    parts = [{"model.embed_tokens.weight": (vocabulary, width)}]
    for first in range(0, layers, 2):
        parts.append(
            {f"model.layers.{i}.{n}": s for i in range(first, min(first + 2, layers)) for n, s in layer.items()}
        )
    parts.append({"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)})
    generator, where, count = torch.Generator().manual_seed(0), {}, 0
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        tensors = {key: made(size, generator) for key, size in part.items()}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(part, name)
        count += sum(tensor.numel() for tensor in tensors.values())
    index = {"metadata": {"total_size": 2 * count}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", **HEADS, **shape}
    (folder / "config.json").write_text(json.dumps(config))
    return count


def made(size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Weights of the size that training starts from; norms are ones."""
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    return (torch.randn(size, generator=generator) * size[1] ** -0.5).to(torch.bfloat16)


CHILD = """
import json, sys
import torch
from rarefy.recipes.prune_folder import prune_folder
source, target, method, rows, tokens, threads, vocabulary = sys.argv[1:]
torch.set_num_threads(int(threads))
torch.manual_seed(0)
data = [torch.randint(0, int(vocabulary), (1, int(tokens))) for _ in range(int(rows))]
report = prune_folder(source, target, method, sparsity=0.5, data=data, ignore=["lm_head"],
                      progress=lambda name, done, total: print(name, done, total, file=sys.stderr, flush=True))
errors = [site.error for site in report.prune.sites if site.error is not None]
print(json.dumps({"method": method, "parameters": report.parameters, "bytes": report.bytes,
    "peak_rss_gb": report.peak_rss / 1e9, "seconds": report.prune.seconds, "runs": report.runs,
    "sparsity": report.prune.sparsity, "layers": len(report.prune.sites),
    "error": sum(errors) / len(errors) if errors else None}))
"""


def prune(source: Path, target: Path, method: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One method in a process of its own, killed every `asked.kill` seconds if that is given."""
    numbers = (asked.rows, asked.tokens, asked.threads, asked.vocabulary)
    arguments = [str(source), str(target), method, *map(str, numbers)]
    while True:
        process = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True)
        try:
            out, _ = process.communicate(timeout=asked.kill)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            asked.kill = asked.kill * 2
            continue
        if process.returncode:
            raise SystemExit(process.returncode)
        return dict(json.loads(out.splitlines()[-1])) | {"sha256": digest(target)}


def digest(folder: Path) -> str:
    state = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        each = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                each.update(block)
        state.update(each.digest())
    return state.hexdigest()[:16]


HEAD = """| method | parameters | weights on disk | peak memory | wall time | processes | zeros | mean layer error |
|---|---|---|---|---|---|---|---|"""


def line(row: dict[str, Any]) -> str:
    error = "-" if row["error"] is None else f"{row['error']:.4f}"
    cells = (
        row["method"],
        f"{row['parameters'] / 1e9:.3f} B",
        f"{row['bytes'] / 1e9:.2f} GB",
        f"{row['peak_rss_gb']:.2f} GB",
        f"{row['seconds'] / 60:.0f} min",
        str(row["runs"]),
        f"{row['sparsity']:.2%} of {row['layers']} layers",
        error,
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["wanda", "sparsegpt"])
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--vocabulary", type=int, default=SHAPE["vocab_size"])
    parser.add_argument("--kill", type=float, default=None)
    parser.add_argument("--keep", action="store_true", help="Leave the source where it is.")
    parser.add_argument("--out", type=Path, default=None, help="Where the table goes.")
    asked = parser.parse_args()
    source, rows = asked.work / "source", []
    if not source.exists():
        started = time.perf_counter()
        count = write_model(source, SHAPE | {"num_hidden_layers": asked.layers, "vocab_size": asked.vocabulary})
        print(f"{count / 1e9:.3f} B parameters written in {time.perf_counter() - started:.0f} s", flush=True)
    try:
        for method in asked.methods:
            target = asked.work / f"pruned-{method}"
            rows.append(prune(source, target, method, asked))
            print(json.dumps(rows[-1]), flush=True)
            shutil.rmtree(target)
    finally:
        if not asked.keep:
            shutil.rmtree(source)
    if asked.out is not None:
        asked.out.write_text("\n".join([HEAD, *map(line, rows)]) + "\n")


if __name__ == "__main__":
    main()
