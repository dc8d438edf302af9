"""A sentence-transformers model that runs on rarefy's kernels."""

from pathlib import Path
from typing import Any

from torch import nn

from rarefy.core.errors import FileError
from rarefy.recipes.hf_quantizer import enable_transformers
from rarefy.recipes.store import load

_TAKEN = ("input_ids", "attention_mask", "token_type_ids")


def sentence_transformer(path: str | Path, *, compiled: bool = True, **options: Any) -> Any:
    """The `SentenceTransformer` of a folder that `rarefy.save(..., carry=...)` wrote, its encoder loaded by rarefy.

    compiled: a compiled model comes back compiled, as `rarefy.load` does it. options: of `SentenceTransformer`
    (prompts, truncate_dim, ...). Calls `enable_transformers`, because sentence-transformers loads through transformers.
    Raises FileError if sentence-transformers is not installed or the folder has no encoder of text.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise FileError("sentence_transformer: pip install sentence-transformers") from error
    enable_transformers()
    model = SentenceTransformer(str(path), device="cpu", local_files_only=True, trust_remote_code=False, **options)
    first: Any = model[0]
    if not isinstance(getattr(first, "model", None), nn.Module):
        raise FileError(
            f"sentence_transformer: {path}: its first module is a {type(first).__name__}, no encoder of text"
        )
    first.model = Encoder(load(Path(path), compiled=compiled), first.model.config)
    return model.eval()


class Encoder(nn.Module):
    """A loaded model in the place of sentence-transformers' own: it is given the arguments that it was compiled for."""

    def __init__(self, model: nn.Module, config: Any) -> None:
        super().__init__()
        self.model, self.config = model, config
        asked = getattr(model, "choices", None)
        self.names = sorted({name for _, kwargs in asked.examples for name in kwargs}) if asked else list(_TAKEN)

    def forward(self, **given: Any) -> Any:
        wanted = self.names or list(_TAKEN)
        return self.model(**{name: value for name, value in given.items() if name in wanted})
