"""A real sentence encoder against sparsity: STS-B, closeness to the dense embeddings, retrieval on SciFact.

    python benchmarks/quality/sentence_encoder.py --data ../shared/data --out FOLDER [--seeds 2] [--collect]

all-MiniLM-L6-v2, all linear layers but the pooler. Each seed draws 64 passages of Python's help topics to calibrate on;
64 others are compared with the dense model's embeddings; the first 300 pairs of STS-B's development set; SciFact's
first 60 test queries over 120 abstracts (their relevant ones and the first others), so nDCG compares within this table
only. Cells are kept in FOLDER: the same command goes on where it was stopped.
"""

import argparse

from asked import arguments, chosen, present, settings

import rarefy
from rarefy.recipes.comparison import Comparison
from rarefy.recipes.comparison.subject import sentence_subject
from rarefy.recipes.demo import model_folder
from rarefy.recipes.encoder import load_text_model
from rarefy.recipes.evaluations.retrieval import read_beir, read_pairs
from rarefy.recipes.text import topic_passages

SPARSITIES = "0.5,0.6,0.7,0.8"
PATTERNS = "unstructured,2:4"
METHODS = {
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
    "sparsegpt@erk": "sparsegpt@erk",
}


def run(asked: argparse.Namespace) -> Comparison:
    text = load_text_model(model_folder())
    subject = sentence_subject(
        text,
        topic_passages(text.count()),
        calibration=64,
        unseen=64,
        pairs=read_pairs(asked.data / "stsb" / "stsb-en-dev.csv")[:300],
        collection=read_beir(asked.data / "scifact", limit=120, queries=60),
    )
    return rarefy.compare(
        subject.model,
        chosen(METHODS, asked),
        ignore=["pooler"],
        name="all-MiniLM-L6-v2",
        said=f"{subject.said} of Python's help topics; 300 pairs of STS-B, 64 unseen passages, 120 SciFact abstracts",
        **settings(asked),
        **subject.arguments(),
    )


def main() -> None:
    parser = arguments(__doc__, sparsity=SPARSITIES, pattern=PATTERNS, seeds=2)
    present(run, parser.parse_args(), "sentence_encoder")


if __name__ == "__main__":
    main()
