"""Answers in OpenAI's wire format, as bytes."""

import base64
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def usage(read: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def embeddings(vectors: Tensor, model: str, read: int, as_base64: bool) -> bytes:
    """vectors (texts, width)."""
    rows: Iterable[Any] = (_base64(vector) for vector in vectors) if as_base64 else vectors.tolist()
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    counted = {"prompt_tokens": read, "total_tokens": read}
    return encoded({"object": "list", "data": data, "model": model, "usage": counted})


def _base64(vector: Tensor) -> str:
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()


@dataclass(frozen=True)
class Answer:
    """The outer form of what was generated for one request; chat or completion."""

    chat: bool
    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def _outer(self, streamed: bool, choices: Sequence[Any]) -> dict[str, Any]:
        kind = "text_completion" if not self.chat else "chat.completion.chunk" if streamed else "chat.completion"
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}"
        return {"id": name, "object": kind, "created": self.created, "model": self.model, "choices": list(choices)}

    def whole(self, texts: Sequence[tuple[str, str]], read: int, written: int) -> bytes:
        """texts: (text, why it ended) a choice."""
        choices = [self._choice(i, said, finish) for i, (said, finish) in enumerate(texts)]
        return encoded(self._outer(False, choices) | {"usage": usage(read, written)})

    def _choice(self, index: int, said: str, finish: str) -> dict[str, Any]:
        held: dict[str, Any] = {"message": {"role": "assistant", "content": said}} if self.chat else {"text": said}
        return {"index": index, **held, "logprobs": None, "finish_reason": finish}

    def first(self) -> bytes | None:
        """What a streamed chat begins with."""
        return self._event(self._delta(0, {"role": "assistant", "content": ""}, None)) if self.chat else None

    def piece(self, index: int, said: str, finish: str | None) -> bytes:
        if not self.chat:
            return self._event({"index": index, "text": said, "logprobs": None, "finish_reason": finish})
        return self._event(self._delta(index, {"content": said} if said else {}, finish))

    def _delta(self, index: int, delta: dict[str, str], finish: str | None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _event(self, choice: dict[str, Any]) -> bytes:
        return event(self._outer(True, [choice]))

    def counted(self, read: int, written: int) -> bytes:
        """The last piece of a stream that counts tokens."""
        return event(self._outer(True, []) | {"usage": usage(read, written)})


def event(value: Any) -> bytes:
    return b"data: " + encoded(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"
