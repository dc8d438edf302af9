"""Decoders that read a prompt once, then go on without the image tokens and neurons that it did not fire."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.activations.images.core_neurons import core_tokens, narrowed, sentence_core, token_core
from rarefy.activations.images.cut_tokens import blocks_of, cut_after, last_logits, new_cache, trim_cache
from rarefy.core.calls import first_input
from rarefy.core.errors import DataError, ModelError, SparsityError
from rarefy.core.registry import method
from rarefy.core.shapes import Int
from rarefy.selectors.places import FeedForward, block_name, feed_forwards


@method(
    "corematching",
    role="selector",
    protocols=("score", "pattern"),
    source="Wang et al. 2025, arXiv:2505.19235, section 4, and the authors' code",
)
@dataclass(frozen=True)
class CoreMatching:
    """Keeps the image tokens that fire a prompt's core neurons, and decodes with the core neurons alone.

    alpha: the share of a token's positive activations that is its core; beta: the share of a layer's neurons, those in
    most tokens' cores, that is the prompt's. layer: the block after which image tokens are dropped, from 0; it and all
    later blocks decode with their own core neurons, earlier ones stay dense.
    Differs: dropped tokens leave the cache of every block, where the code writes zeros; all equal scores keep all; a
    token's score is its overlap with the prompt's core, the code's with the core of one of the last tokens.
    """

    alpha: float = 0.4
    beta: float = 0.4
    layer: int = 1

    def __post_init__(self) -> None:
        if not (0.0 < self.alpha <= 1.0 and 0.0 < self.beta <= 1.0) or self.layer < 0:
            raise SparsityError(
                f"corematching: alpha {self.alpha} and beta {self.beta} are shares in (0, 1], layer {self.layer} a "
                "number of a block from 0"
            )

    def read(
        self,
        model: nn.Module,
        image: Tensor,
        *,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> "ReadPrompt":
        """Reads one prompt (1, tokens) or its embeddings (1, tokens, width); image: bool (tokens,), which of them are
        an image's. Text tokens and the last token always stay.

        Raises DataError for more than one prompt or marks of another length or type, ModelError for an unknown
        architecture or a model without a block after `layer`.
        """
        if not getattr(model, "can_generate", lambda: True)():
            raise ModelError(
                f"corematching: {type(model).__name__} generates no text, its tokens see those behind them; give a "
                "decoder with its head (a ...ForCausalLM)"
            )
        tokens = self._tokens(image, input_ids, inputs_embeds)
        layers = feed_forwards(model)
        blocks = blocks_of(model, [block_name(layer.name) for layer in layers])
        if self.layer >= len(blocks) - 1:
            raise ModelError(f"corematching: layer {self.layer} of {len(blocks)} blocks has no later one; choose lower")
        watch = _Watch(self, image)
        downs = enumerate(layer.down for layer in layers)
        handles = [down.register_forward_pre_hook(watch.hook(i), with_kwargs=True) for i, down in downs]
        cache, given = new_cache(), {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        try:
            with torch.no_grad(), cut_after(blocks, self.layer, tokens, lambda: watch.kept):
                inputs = {name: value for name, value in given.items() if value is not None}
                logits = last_logits(model, positions=range(tokens), cache=cache, **inputs)
        finally:
            for handle in handles:
                handle.remove()
        trim_cache(cache, watch.kept, self.layer)
        cores = {layers[i].name: (layers[i], index) for i, index in watch.neurons.items()}
        return ReadPrompt(model, tokens, watch.kept, cores, logits, cache)

    def _tokens(self, image: Tensor, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> int:
        if (input_ids is None) == (inputs_embeds is None):
            raise DataError("corematching: give either input_ids (1, tokens) or inputs_embeds (1, tokens, width)")
        if image.dtype != torch.bool or image.dim() != 1:
            raise DataError(
                f"corematching: image is {image.dtype} of shape {tuple(image.shape)}; give a bool tensor (tokens,), "
                "True for an image's tokens"
            )
        given = input_ids if input_ids is not None else inputs_embeds
        assert given is not None
        if given.shape[0] != 1 or given.shape[1] != len(image):
            raise DataError(
                f"corematching: a prompt of {tuple(given.shape)} and marks for {len(image)} tokens; give one prompt "
                "(its own tokens are kept, so prompts do not share a batch) and a mark for each token"
            )
        if image.all():
            raise DataError("corematching: every token is marked as an image's; the text that asks has to be unmarked")
        return int(given.shape[1])


class _Watch:
    """Sees what enters each down projection: finds the kept tokens at one block, core neurons there and after it."""

    def __init__(self, method: CoreMatching, image: Tensor) -> None:
        self.method, self.image = method, image.clone()
        self.image[-1] = False  # what comes next is read off the last token
        self.neurons: dict[int, Tensor] = {}
        self.kept = torch.arange(len(image))

    def hook(self, number: int) -> Any:
        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if number < self.method.layer:
                return
            x = first_input(args, kwargs)
            hidden = x.detach().reshape(-1, x.shape[-1]).float()
            core = token_core(hidden, self.method.alpha)
            sentence = sentence_core(core, self.method.beta)
            self.neurons[number] = sentence.nonzero()[:, 0]
            if number == self.method.layer:
                self.kept = core_tokens(core, sentence, self.image.to(core.device)).nonzero()[:, 0]

        return see


@dataclass(eq=False)
class ReadPrompt:
    """A prompt that was read. kept: positions of the tokens in the cache; cores: core neurons by feed-forward layer;
    logits: (vocabulary,) after its last token. It is used up by `generate`, which lets the cache grow."""

    model: nn.Module
    tokens: int
    kept: Int[Tensor, "kept"]
    cores: Mapping[str, tuple[FeedForward, Tensor]]
    logits: Tensor
    cache: Any

    @property
    def length(self) -> int:
        """How many tokens the cache of every block holds."""
        lengths = {layer.keys.shape[-2] for layer in self.cache.layers}
        assert len(lengths) == 1, lengths
        return int(lengths.pop())

    def generate(self, count: int, *, stop: int | None = None) -> list[int]:
        """The next tokens, the likeliest each time; ends early after the token `stop`.

        The matrices of the core neurons are gathered once, before the first token. Positions go on from the whole
        prompt's length, as if no token had been dropped.
        """
        found: list[int] = []
        with torch.no_grad(), narrowed(self.model, self.cores):
            while len(found) < count:
                found.append(int(self.logits.argmax()))
                if found[-1] == stop or len(found) == count:
                    break
                self.step(found[-1])
        return found

    def step(self, token: int) -> Tensor:
        """The logits after one more token; dense unless called within `narrowed(model, cores)`."""
        position = self.tokens
        self.tokens += 1
        with torch.no_grad():
            ids = torch.tensor([[token]], device=self.logits.device)
            self.logits = last_logits(self.model, positions=[position], cache=self.cache, input_ids=ids)
        return self.logits
