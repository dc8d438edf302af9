"""The model of a folder, ready to be called: an encoder that embeds, or a language model that goes on with a text."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import ModelError
from rarefy.engine import Compiled, CompiledDecoder
from rarefy.engine import compile as compile_model
from rarefy.engine.rivals.outputs import first_tensor
from rarefy.recipes.encoder import TextModel, load_text_model
from rarefy.recipes.store import load
from rarefy.serving.rows import OneByOne, Rows, SideBySide

_PROMPT = 64  # tokens of the texts that kernels are timed with
_HUGE = 10**9  # tokenizers say so where they know no limit


@dataclass(frozen=True)
class How:
    """How a model is run. dense: as torch runs it, for comparison; weights, activations: types as of `rarefy.compile`;
    measure: False takes kernels by the cost model, which starts sooner."""

    dense: bool = False
    weights: str = "fp32"
    activations: str = "fp32"
    measure: bool = True


@dataclass(frozen=True)
class Served:
    """text: the model and its tokenizer; writes: whether it generates text; most_tokens: that it takes in all."""

    text: TextModel
    writes: bool
    most_tokens: int

    @cached_property
    def _last_only(self) -> dict[str, int]:
        """The argument that spares the logits of all tokens but the last, where the model has it."""
        source: Any = getattr(self.text.model, "source", self.text.model)
        known = inspect.signature(source.forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def embed(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Unit vectors (texts, width) of texts as ids."""
        ids, mask = self._padded(texts)
        batch = {"input_ids": ids, "attention_mask": mask}
        with torch.inference_mode():
            return self.text.vectors_of(self.text.model(**batch), batch)

    def _padded(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """(ids, mask), int64 (texts, longest)."""
        width = max(map(len, texts))
        pad = self.text.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*text, *[pad] * (width - len(text))] for text in texts])
        mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
        return ids, mask

    def step(self, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """(logits (1, vocabulary) behind the last of ids (1, n), the cache with them)."""
        with torch.inference_mode():
            out = self.text.model(input_ids=ids, past_key_values=cache, use_cache=True, **self._last_only)
        return out.logits[:, -1].float(), out.past_key_values

    def rows(self) -> Rows:
        """What goes on with several texts: at once where the decoder runtime runs them."""
        model = self.text.model
        return SideBySide(model.together()) if isinstance(model, CompiledDecoder) else OneByOne(self.step)

    def eos(self) -> frozenset[int]:
        """Ids that end a text, by the model's generation config and its tokenizer."""
        config = getattr(self.text.model, "generation_config", None) or self.text.model.config
        found = getattr(config, "eos_token_id", None)
        ids = found if isinstance(found, list | tuple) else [found]
        return frozenset(int(i) for i in (*ids, self.text.tokenizer.eos_token_id) if i is not None)

    def explain(self) -> str:
        """What the compiled model says about itself, or that it runs as torch runs it."""
        model = self.text.model
        return str(model.explain()) if isinstance(model, Compiled | CompiledDecoder) else "dense, as torch runs it"


def serve_folder(folder: Path, how: How = How(), *, batch: int = 16) -> Served:
    """The model of a folder that `rarefy.save` wrote, or of any Hugging Face folder, compiled unless `how` says dense.

    batch: texts in a call, which an encoder is compiled for. Raises ModelError for a model that is neither an encoder
    of text nor a decoder-only language model.
    """
    text = load_text_model(
        folder, load(folder, compiled=not how.dense and _plain_types(how)) if folder.is_dir() else None
    )
    if getattr(text.model.config, "is_encoder_decoder", False):
        raise ModelError(f"serve: {folder}: models with an encoder and a decoder are not served; give one or the other")
    writes = _writes(text.model)
    if not how.dense and not isinstance(text.model, Compiled | CompiledDecoder):
        text = replace(text, model=_compiled(text, writes, how, batch))
    served = Served(text, writes, _most_tokens(text))
    _try(served, folder)
    return served


def _plain_types(how: How) -> bool:
    return (how.weights, how.activations) == ("fp32", "fp32")


def _writes(model: nn.Module) -> bool:
    source: Any = getattr(model, "source", model)
    return bool(callable(getattr(source, "can_generate", None)) and source.can_generate())


def _compiled(text: TextModel, writes: bool, how: How, batch: int) -> nn.Module:
    tokens = min(_PROMPT, _most_tokens(text))
    examples = (
        [text.example(1, tokens)] if writes or batch == 1 else [text.example(1, tokens), text.example(batch, tokens)]
    )
    given: Any = {"input_ids": examples[0]["input_ids"]} if writes else examples
    return compile_model(
        text.model,
        given,
        weights=how.weights,
        activations=how.activations,
        measure=how.measure,
        keep_dense=writes,
    )


def _most_tokens(text: TextModel) -> int:
    """What both the model's positions and the tokenizer allow."""
    limits = [getattr(text.model.config, "max_position_embeddings", None), text.tokenizer.model_max_length]
    return min([int(limit) for limit in limits if limit is not None and limit < _HUGE], default=2048)


def _try(served: Served, folder: Path) -> None:
    """Calls the model once, so that what it cannot do is said before anybody asks."""
    ids = served.text.example(1, 4)["input_ids"]
    if served.writes:
        served.step(ids, None)
        return
    with torch.inference_mode():
        hidden = first_tensor(served.text.model(input_ids=ids, attention_mask=torch.ones_like(ids)))
    if hidden.dim() != 3:
        raise ModelError(
            f"serve: {folder}: gives {tuple(hidden.shape)} for a text, not a vector a token; "
            "give an encoder without a head"
        )
