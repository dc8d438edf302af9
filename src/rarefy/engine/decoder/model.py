"""The compiled decoder: called like the model it came from, with a `generate` of its own."""

import inspect
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import DTypeError, EngineError, ShapeError
from rarefy.engine.calls import inference, untraced
from rarefy.engine.choices import Choices
from rarefy.engine.decoder.arguments import mask_for, padded_behind, request_of, unsupported, unsupported_setting
from rarefy.engine.decoder.cache import DecoderCache
from rarefy.engine.decoder.drafting import Drafting
from rarefy.engine.decoder.generate import Timings, generate, positions_of
from rarefy.engine.decoder.profile import profile_of_a_token
from rarefy.engine.decoder.runner import Runner
from rarefy.engine.decoder.settings import settings_of
from rarefy.engine.decoder.stored import StoredLayers
from rarefy.engine.decoder.together import Together
from rarefy.engine.explain import Explanation
from rarefy.engine.outward import Outward
from rarefy.engine.profile_report import Profile

_OURS = {"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep", "return_dict"}
_FLAGS = {"output_attentions", "output_hidden_states"}  # the runtime knows these as long as they are off


class CompiledDecoder(Outward):
    """A causal language model on the native runtime. Inference only; calls from several threads are safe as long as
    each has a cache of its own (every `generate` has).

    source: the model as it was given, whose parameters are shared; do not change them: weights are packed at compile
    time. A call with arguments that the runtime does not know (labels, inputs_embeds, another cache) runs in `source`.
    stored: weights that a loaded model leaves in its file; `source` can then not run.
    """

    choices: Choices

    def __init__(
        self,
        source: nn.Module,
        runner: Runner,
        output: Any,
        explanation: Explanation,
        choices: Choices,
        stored: StoredLayers = StoredLayers(),
    ) -> None:
        super().__init__()
        self.choices, self._stored = choices, stored
        self.__dict__["source"] = source
        self._runner, self._output, self._explanation, self._threads = runner, output, explanation, choices.threads
        self._signature = inspect.signature(source.forward)
        self.last = Timings()  # of the latest `generate`, whichever thread it ran in

    def explain(self) -> Explanation:
        """What every layer runs with and why, times of the whole, and where the time of one token goes."""
        return self._explanation

    def cache(self, batch: int, tokens: int) -> DecoderCache:
        """An empty cache for `past_key_values`, with room for so many tokens (it grows when it must)."""
        return self._runner.cache(batch, tokens)

    @property
    def freed(self) -> bool:
        """Whether dense weights were left in the file, so that `source` cannot run."""
        return bool(self._stored.held)

    def to_dense(self) -> nn.Module:
        """The plain model: `source`, or where its weights were left in the file, a new one with them."""
        return self._stored.filled(self.source) if self.freed else self.source

    def as_given(self, what: str) -> nn.Module:
        """`to_dense`: the file has the weights as they were."""
        return self.to_dense()

    def _whole(self, what: str, given: dict[str, Any]) -> Any:
        """The source model, for what the runtime does not do. Raises EngineError where it could not run."""
        if isinstance(given.get("past_key_values"), DecoderCache):
            raise EngineError(
                f"{what}: past_key_values is a DecoderCache, which only the runtime's own forward reads, and this runs "
                "in the source model; leave it out, or give a cache of transformers"
            )
        if self.freed:
            raise EngineError(
                f"{what}: the runtime has no such thing, and the source model's weights were left in the file; "
                "use .to_dense(), or load the model with compiled=False"
            )
        return self.source

    def together(self) -> Together:
        """Texts that are written at the same time, a token each a call, and may come and go."""
        return Together(self._runner, self._threads)

    @cached_property
    def drafting(self) -> Drafting:
        """Drafts of the model as it is, and checks of them by the model without its selectors, on the same weights."""
        return Drafting(self._runner, self._threads)

    @property
    def nbytes(self) -> int:
        """Bytes of all packed weights."""
        return sum({id(c): c.nbytes for c in self._runner.plan.all()}.values())

    def profile(self, past: int = 128, steps: int = 8) -> Profile:
        """Where the time of one token behind `past` tokens goes: the median of so many steps, a row a part.

        As a mapping it gives the milliseconds of each part, and of the "whole" step.
        """
        with inference(self._threads):
            return profile_of_a_token(self._runner, past, steps)

    @untraced
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = self._signature.bind_partial(*args).arguments | kwargs if args else kwargs
        with inference(self._threads):
            strange = self._strange(given)
            if strange is not None:
                return self._whole(f"forward with {strange}", given)(**given)
            return self._forward(**{name: value for name, value in given.items() if name in _OURS})

    def _strange(self, given: dict[str, Any]) -> str | None:
        """The first argument that only the source model takes as it is given, or None."""
        for name, value in given.items():
            if name not in _OURS and value is not None and not (name in _FLAGS and value is False):
                return name
        mask = given.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            return "attention_mask"
        if not isinstance(given.get("logits_to_keep", 0), int):
            return "logits_to_keep"
        if not isinstance(given.get("past_key_values"), DecoderCache | None):
            return "past_key_values"
        return "no input_ids" if given.get("input_ids") is None else None

    def _forward(
        self,
        input_ids: Any,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DecoderCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> Any:
        ids = self._runner.require_ids("forward", input_ids)
        cache = past_key_values or self._runner.cache(ids.shape[0], ids.shape[1])
        if cache.batch != ids.shape[0]:
            raise ShapeError(f"forward: input_ids has {ids.shape[0]} rows and past_key_values {cache.batch}")
        total = cache.length + ids.shape[1]
        self._runner.require_length("forward", total)
        cache.reserve(total)
        positions = self._positions(ids, attention_mask, position_ids, cache.length)
        cache.see(attention_mask, ids.shape[1])
        logits = self._runner.run(ids, positions, cache, last_only=logits_to_keep == 1)
        if logits_to_keep not in (0, 1):
            logits = logits[:, -logits_to_keep:]
        wanted = use_cache if use_cache is not None else getattr(self.config, "use_cache", True)
        kept = cache if wanted or past_key_values is not None else None
        out = self._output(logits=logits, past_key_values=kept)
        return out if return_dict is None or return_dict else out.to_tuple()

    def _positions(self, ids: Tensor, mask: Tensor | None, given: Tensor | None, past: int) -> Tensor:
        if given is None:
            from_mask = mask if self._runner.structure.positions_from_mask else None
            return positions_of(from_mask, ids.shape[0], ids.shape[1], past)
        if given.dtype not in (torch.int64, torch.int32):
            raise DTypeError(f"forward: position_ids is {given.dtype}; positions are int64 (or int32)")
        if given.dim() != 2 or given.shape[1] != ids.shape[1] or given.shape[0] not in (1, ids.shape[0]):
            raise ShapeError(f"forward: position_ids has shape {tuple(given.shape)}; it must be {tuple(ids.shape)}")
        if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < self._runner.structure.most_positions:
            raise ShapeError(
                f"forward: position_ids span [{int(given.min())}, {int(given.max())}], outside the model's "
                f"{self._runner.structure.most_positions} positions"
            )
        return given.long().expand(ids.shape).contiguous()

    @untraced
    def generate(
        self, input_ids: Any = None, generation_config: Any = None, *, inputs: Any = None, **kwargs: Any
    ) -> Any:
        """Token ids (batch, prompt + new), as `generate` of transformers gives them.

        max_new_tokens or max_length, do_sample, temperature, top_k, top_p, eos_token_id, pad_token_id, attention_mask
        (padding on the left), streamer, stopping_criteria, generation_config; the rest comes from the model's config.
        generator or seed: for the draws, instead of torch's own state. Greedy tokens are the source model's. With
        what the runtime has not (beams, penalties, padding on the right, ...) the source model generates, in torch.
        """
        ids = input_ids if input_ids is not None else inputs
        if generation_config is not None:
            kwargs["generation_config"] = generation_config
        with inference(self._threads):
            strange = "no input_ids" if ids is None else unsupported(kwargs)
            settings = settings_of(self.source, kwargs) if strange is None else None
            strange = strange or unsupported_setting(settings)
            if strange is not None:
                return self._whole(f"generate with {strange}", kwargs).generate(ids, **kwargs)
            ids = self._runner.require_ids("generate", ids)
            mask = mask_for(kwargs, settings, ids)
            if padded_behind(mask):
                return self._whole("generate behind padding on the right", kwargs).generate(ids, **kwargs)
            request = request_of(self.source, kwargs, settings, ids.shape[1])
            timings = Timings()
            out = generate(self._runner, ids, mask, request, timings)
            self.last = timings
            return out
