"""From requests to ids: what is tokenized, how long it may be, and what a chat looks like to the model."""

from collections.abc import Sequence
from typing import Any

from rarefy.serving.errors import ApiError, too_long
from rarefy.serving.limits import Limits
from rarefy.serving.model import Served
from rarefy.serving.wire import Message, Texts

_LETTERS = 32  # a text with more letters a token than this is refused before it is tokenized


class Tokens:
    """Ids of the texts in requests; called in one thread at a time, because tokenizers are no more than that."""

    def __init__(self, served: Served, limits: Limits) -> None:
        self._tokenizer: Any = served.text.tokenizer
        config: Any = served.text.model.config
        self._vocabulary = int(config.vocab_size)
        self._limits = limits
        self._whole = served.most_tokens
        self.most = min(served.most_tokens, limits.input_tokens or served.most_tokens)

    def texts(self, given: Texts, param: str) -> list[list[int]]:
        """A list of ids a text. Raises ApiError where there are too many texts, or tokens in one, or unknown ids."""
        texts: list[Any] = [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)
        if len(texts) > self._limits.inputs:
            raise ApiError(400, f"{param}: {len(texts)} texts, at most {self._limits.inputs} a request", param=param)
        return [self._checked(self._ids(text, param) if isinstance(text, str) else text, param) for text in texts]

    def chat(self, messages: Sequence[Message], param: str = "messages") -> list[int]:
        """Ids of a chat in the model's own template, up to where the answer begins."""
        said = [{"role": message.role, "content": message.said()} for message in messages]
        if not getattr(self._tokenizer, "chat_template", None):
            raise ApiError(
                400, "This model's tokenizer has no chat template; use /v1/completions", code="no_chat_template"
            )
        self._require_short(sum(len(one["content"]) for one in said), param)
        try:
            text = self._tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template may refuse anything, with errors of its own
            raise ApiError(400, f"{param}: the model's chat template refuses this: {error}", param=param) from None
        return self._checked(self._ids(text, param, special=False), param)

    def new_tokens(self, ids: Sequence[int], asked: int | None) -> int:
        """How many tokens may be generated. Raises ApiError where the model cannot hold as many as are asked for."""
        room = self._whole - len(ids)
        if room < 1:
            raise too_long(str(len(ids)), self._whole - 1, "prompt")
        if asked is None:
            return min(room, self._limits.new_tokens)
        if asked > self._limits.new_tokens:
            raise ApiError(
                400, f"max_tokens: {asked}, this server allows {self._limits.new_tokens}", param="max_tokens"
            )
        if asked > room:
            message = (
                f"The prompt has {len(ids)} tokens and {asked} are asked for; the model holds {self._whole} in all."
            )
            raise ApiError(400, message, param="max_tokens", code="context_length_exceeded")
        return asked

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _ids(self, text: str, param: str, special: bool = True) -> list[int]:
        self._require_short(len(text), param)
        return list(self._tokenizer(text, add_special_tokens=special, truncation=False)["input_ids"])

    def _require_short(self, letters: int, param: str) -> None:
        if letters > _LETTERS * self.most:
            raise too_long(f"more (it has {letters} letters)", self.most, param)

    def _checked(self, ids: list[int], param: str) -> list[int]:
        if not ids:
            raise ApiError(400, f"{param}: a text without a single token", param=param)
        if len(ids) > self.most:
            raise too_long(str(len(ids)), self.most, param)
        if max(ids) >= self._vocabulary:
            message = f"{param}: token {max(ids)} is outside the vocabulary of {self._vocabulary}"
            raise ApiError(400, message, param=param)
        return ids
