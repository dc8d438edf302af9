"""Pruning all of all-MiniLM-L6-v2 with one method, calibration included: seconds in all and of each part.

    python benchmarks/methods/minilm.py [--method sparsegpt] [--passages 128] [--folder FOLDER]

Calibration: passages of the help topics that CPython carries, 60 to 120 tokens each, in batches of 16. Tokenising is
not counted; everything from there to the pruned model is.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

import rarefy
from rarefy.recipes.demo import model_folder
from rarefy.recipes.encoder import load_text_model
from rarefy.recipes.text import topic_passages


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="sparsegpt")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--passages", type=int, default=128)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    text = load_text_model(asked.folder or model_folder())
    batches = text.batches(topic_passages(text.count())[: asked.passages])
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    started = time.perf_counter()
    report = rarefy.prune(text.model, asked.method, sparsity=asked.sparsity, data=batches, ignore=["pooler*"])
    seconds = time.perf_counter() - started
    solving = sum(site.seconds for site in report.sites)
    print(
        f"| {asked.method} | {len(report.sites)} layers | {tokens} tokens | {torch.get_num_threads()} threads | "
        f"{seconds:.2f} s | {solving:.2f} s | {report.sparsity:.4f} |"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
