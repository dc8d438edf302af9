"""Calibration batches for a Hugging Face folder whose model is not loaded: its tokenizer, and a text or token ids."""

import random
from pathlib import Path
from typing import Any

import torch

from rarefy.core.errors import DataError, FileError
from rarefy.formats.folder import read_json
from rarefy.formats.npy import read_npy
from rarefy.recipes.text import LANGUAGE_MODELS, read_passages
from rarefy.recipes.tokenizer import read_tokenizer

_ROWS = 8  # passages of an encoder in one batch


def batches_for(folder: Path, data: Path, rows: int, length: int, seed: int = 0) -> list[Any]:
    """Batches of token ids. data: a .npy of ids `(rows, tokens)`, or a UTF-8 text.

    A language model gets `rows` runs of `length` tokens of the text, chosen by `seed`, one a batch, no padding; any
    other model gets up to `rows` of its lines, each cut at `length` tokens, padded in batches of 8.
    """
    if rows < 1 or length < 1:
        raise DataError(f"--rows {rows}, --length {length}: both have to be at least 1")
    if data.suffix == ".npy":
        return _of_ids(data, rows)
    passages = read_passages(data)
    tokenizer = read_tokenizer(folder)
    named = str(read_json(folder / "config.json").get("architectures"))
    if any(word in named for word in LANGUAGE_MODELS):
        return _runs(tokenizer("\n".join(passages))["input_ids"], rows, length, seed, data)
    chosen = random.Random(seed).sample(passages, min(rows, len(passages)))
    cut = {"padding": True, "truncation": True, "max_length": length, "return_tensors": "pt"}
    return [dict(tokenizer(chosen[i : i + _ROWS], **cut)) for i in range(0, len(chosen), _ROWS)]


def _runs(ids: list[int], rows: int, length: int, seed: int, data: Path) -> list[Any]:
    count = len(ids) // length
    if count < 1:
        raise DataError(f"--data: {data} has {len(ids)} tokens, fewer than one run of {length}; give more, or --length")
    chosen = sorted(random.Random(seed).sample(range(count), min(rows, count)))
    return [{"input_ids": torch.tensor(ids[i * length : (i + 1) * length])[None]} for i in chosen]


def _of_ids(data: Path, rows: int) -> list[Any]:
    if not data.is_file():
        raise DataError(f"--data: {data} does not exist")
    try:
        ids = read_npy(data)
    except FileError as error:
        raise DataError(f"--data: {error}") from None
    if ids.dim() != 2 or not ids.numel() or ids.is_floating_point() or ids.is_complex():
        raise DataError(f"--data: {data}: holds {ids.dtype} {tuple(ids.shape)}; give token ids (rows, tokens)")
    return [{"input_ids": row[None].long()} for row in ids[:rows]]
