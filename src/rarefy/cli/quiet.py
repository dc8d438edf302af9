"""Libraries that talk while a progress bar is on screen are asked to be quiet."""

import os
import warnings


def quiet_libraries() -> None:
    """Bars and advice of transformers and warnings of exporters off; our own warnings stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    try:
        from transformers.utils import logging
    except ImportError:
        return
    logging.set_verbosity_error()
    logging.disable_progress_bar()
