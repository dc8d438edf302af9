"""Calibration batches for a Hugging Face folder whose model is not loaded: its tokenizer, and a text or token ids."""

import random
from pathlib import Path
from typing import Any

import torch

from rarefy.core.errors import DataError, FileError, ModelError
from rarefy.formats.folder import read_json
from rarefy.recipes.text import LANGUAGE_MODELS, read_passages

_ROWS = 8  # passages of an encoder in one batch


def batches_for(folder: Path, data: Path, rows: int, length: int, seed: int = 0) -> list[Any]:
    """Batches of token ids. data: a .npy of ids `(rows, tokens)`, or a UTF-8 text.

    A language model gets `rows` runs of `length` tokens of the text, chosen by `seed`, one a batch, no padding; any
    other model gets up to `rows` of its lines, each cut at `length` tokens, padded in batches of 8.
    """
    if rows < 1 or length < 1:
        raise DataError(f"--rows {rows}, --length {length}: both have to be at least 1")
    if data.suffix == ".npy":
        return _of_ids(data)[:rows]
    passages = read_passages(data)
    tokenizer = _tokenizer(folder)
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


def _of_ids(data: Path) -> list[Any]:
    import numpy

    if not data.is_file():
        raise DataError(f"--data: {data} does not exist")
    try:
        ids = torch.from_numpy(numpy.load(data, allow_pickle=False))
    except (ValueError, TypeError, EOFError) as error:
        raise DataError(f"--data: {data}: is no array of numbers ({error})") from None
    if ids.dim() != 2 or not ids.numel() or ids.is_floating_point():
        raise DataError(f"--data: {data}: holds {ids.dtype} {tuple(ids.shape)}; give token ids (rows, tokens)")
    return [{"input_ids": row[None].long()} for row in ids]


def _tokenizer(folder: Path) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ModelError(f"{folder}: Hugging Face folders need transformers; pip install 'rarefy[demo]'") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise FileError(f"{folder}: the tokenizer cannot be loaded ({error}); put its files beside the model") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
