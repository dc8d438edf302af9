"""Perplexity of a trained Llama-shaped model of bytes against sparsity, every method on the same text.

    python benchmarks/quality/language_model.py --data ../shared/data --out FOLDER [--seeds 3] [--collect]
    python benchmarks/quality/language_model.py --data ../shared/data --out FOLDER --more [--collect]

The model and the text are those of the data folder's table: 64 calibration windows of 256 bytes, drawn by the seed from
the first 95 % of SciFact's titles and abstracts, and the first 80 windows of the rest to measure on. All linear layers
of the 6 blocks. Cells are kept in FOLDER, so the same command goes on where it was stopped; the table and the plot are
written beside this file when --write is given. --more takes what else there is, at 60 % zeros only.
"""

import argparse
import json
from pathlib import Path

import torch
from asked import arguments, chosen, present, settings
from torch import Tensor

import rarefy
from rarefy.recipes.comparison import Comparison
from rarefy.recipes.evaluations.language import Perplexity, batches_of, next_token_loss, windows

WINDOW, CALIBRATION, UNSEEN = 256, 64, 80
METHODS = {
    "random": "random",
    "magnitude, by layer": "magnitude",
    "magnitude, by row": "magnitude+pattern=rowwise",
    "snip (one budget)": "snip",
    "fisher (one budget)": "fisher",
    "wanda": "wanda",
    "ria": "ria",
    "wanda-plus-plus": "wanda-plus-plus",
    "dsnot from magnitude": "dsnot+start=magnitude",
    "dsnot from wanda": "dsnot",
    "wanda, least squares after": "wanda+repair=weights",
    "awp-pgd": "awp-pgd",
    "sparsegpt": "sparsegpt+columns=64",
    "alps": "alps",
    "wanda@owl": "wanda@owl",
    "sparsegpt@owl": "sparsegpt@owl+columns=64",
    "maskllm, 200 steps": "maskllm+steps=200+rate=0.05",
}
MORE = {
    "gradient": "gradient",
    "movement": "movement",
    "obd": "obd",
    "activation-norm": "activation-norm",
    "grasp": "grasp",
    "mfac": "mfac",
    "woodfisher": "woodfisher",
    "chita": "chita",
    "spectrum-preserving-pruning": "spectrum-preserving-pruning",
    "reconstruction": "reconstruction",
    "obs": "obs",
    "sparsegpt, corrected": "sparsegpt+corrected=true+columns=64",
    "wanda, by layer": "wanda+pattern=layerwise",
    "magnitude@er": "magnitude@er",
    "magnitude@lamp": "magnitude@lamp",
    "wanda@ecoflap": "wanda@ecoflap",
    "wanda@sensitivity": "wanda@sensitivity",
    "alps@owl": "alps@owl",
}
SPARSITIES = "0.3,0.5,0.6,0.7,0.8"
PATTERNS = "unstructured,2:4,4:8"


def text_of(data: Path) -> tuple[Tensor, Tensor]:
    """(what may be calibrated on, what is measured on), bytes."""
    lines = [json.loads(line) for line in (data / "scifact" / "corpus.jsonl").read_text("utf-8").splitlines()]
    raw = bytearray("\n".join(f"{row['title']}\n{row['text']}" for row in lines).encode())
    cut = int(len(raw) * 0.95)
    return tuple(torch.frombuffer(part, dtype=torch.uint8).long() for part in (raw[:cut], raw[cut:]))  # type: ignore[return-value]


def run(asked: argparse.Namespace) -> Comparison:
    seen, unseen = text_of(asked.data)
    return rarefy.compare(
        rarefy.load(asked.data / "weights" / "llama-4m-bytes"),
        chosen(MORE if asked.more else METHODS, asked),
        data=lambda seed: batches_of(windows(seen, WINDOW, asked.calibration, seed)),
        evaluate=Perplexity(unseen[: asked.unseen * WINDOW].view(-1, WINDOW)),
        loss=next_token_loss,
        ignore=["lm_head"],
        name="llama-4m-bytes",
        said=f"{asked.calibration} calibration windows and {asked.unseen} unseen windows of {WINDOW} bytes of SciFact",
        **settings(asked),
    )


def main() -> None:
    parser = arguments(__doc__, sparsity=SPARSITIES, pattern=PATTERNS, seeds=3)
    parser.add_argument("--calibration", type=int, default=CALIBRATION, help="windows a seed")
    parser.add_argument("--unseen", type=int, default=UNSEEN, help="windows to measure on")
    parser.add_argument("--more", action="store_true", help="other methods, at 60 %% zeros")
    asked = parser.parse_args()
    if asked.more:
        asked.sparsity, asked.pattern = "0.6", "unstructured"
    present(run, asked, "language_model_more" if asked.more else "language_model")


if __name__ == "__main__":
    main()
