"""The tokenizer of a Hugging Face folder: from its files alone, never code that they name."""

from pathlib import Path
from typing import Any

from rarefy.core.errors import FileError, ModelError


def read_tokenizer(folder: Path) -> Any:
    """What transformers makes of the folder's files, able to pad. Raises FileError, ModelError without transformers."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ModelError(f"{folder}: Hugging Face folders need transformers; pip install 'rarefy[demo]'") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer("a word", verbose=False)  # some strange files load, and fail at the first text
    except BaseException as error:  # strange files lead to whatever; a panic of its core is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise FileError(f"{folder}: the tokenizer cannot be loaded ({error}); put its files beside the model") from None
    return tokenizer
