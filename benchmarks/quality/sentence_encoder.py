"""A real sentence encoder against sparsity: STS-B, closeness to the dense embeddings, retrieval on SciFact.

    python benchmarks/quality/sentence_encoder.py --data ../shared/data --out FOLDER [--seeds 2] [--workers 1] [--collect]

all-MiniLM-L6-v2, all linear layers but the pooler. Each seed draws 128 passages of Python's help topics to calibrate on;
100 others are compared with the dense model's embeddings; the first 500 pairs of STS-B's development set; SciFact's first
100 test queries over 300 abstracts (their relevant ones and the first others), so nDCG compares within this table only.
Cells are kept in FOLDER: the same command goes on where it was stopped.
"""

import argparse
import shutil
from pathlib import Path

from rich.console import Console

import rarefy
from rarefy.cli.progress import RichStages
from rarefy.recipes.comparison import Comparison
from rarefy.recipes.comparison.subject import sentence_subject
from rarefy.recipes.demo import model_folder
from rarefy.recipes.encoder import load_text_model
from rarefy.recipes.evaluations.retrieval import read_beir, read_pairs
from rarefy.recipes.text import topic_passages

HERE = Path(__file__).parent
METHODS = {
    "random": "random",
    "magnitude": "magnitude",
    "wanda": "wanda",
    "ria": "ria",
    "wanda-plus-plus": "wanda-plus-plus",
    "dsnot from magnitude": "dsnot+start=magnitude",
    "dsnot from wanda": "dsnot",
    "wanda, least squares after": "wanda+repair=weights",
    "awp-pgd": "awp-pgd",
    "sparsegpt": "sparsegpt",
    "alps": "alps",
    "sparsegpt@owl": "sparsegpt@owl",
    "sparsegpt@erk": "sparsegpt@erk",
}


def run(asked: argparse.Namespace) -> Comparison:
    text = load_text_model(model_folder())
    subject = sentence_subject(
        text,
        topic_passages(text.count()),
        calibration=128,
        unseen=100,
        pairs=read_pairs(asked.data / "stsb" / "stsb-en-dev.csv")[:500],
        collection=read_beir(asked.data / "scifact", limit=300, queries=100),
    )
    chosen = {label: METHODS[label] for label in METHODS if not asked.methods or label in asked.methods.split(";")}
    return rarefy.compare(
        subject.model,
        chosen,
        sparsity=(0.5, 0.6, 0.7, 0.8),
        pattern=("unstructured", "2:4"),
        seeds=asked.seeds,
        ignore=["pooler"],
        out=asked.out,
        workers=asked.workers,
        collect=asked.collect,
        stages=RichStages(Console()),
        name="all-MiniLM-L6-v2",
        said=f"{subject.said} of Python's help topics; STS-B dev (500 pairs), 100 unseen passages, SciFact (300 documents)",
        **subject.arguments(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default="", help="labels by semicolons; default: all")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--collect", action="store_true", help="tables from the cells that are there")
    parser.add_argument("--write", action="store_true", help="copy the table and the plot beside this file")
    asked = parser.parse_args()
    print(run(asked))
    if asked.write:
        for suffix in ("csv", "svg"):
            shutil.copy(asked.out / f"compare.{suffix}", HERE / f"sentence_encoder.{suffix}")
        shutil.copy(asked.out / "compare.md", HERE / "sentence_encoder_tables.md")


if __name__ == "__main__":
    main()
