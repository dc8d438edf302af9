"""Requests in OpenAI's wire format, each field checked. Fields that would change the answer and are not implemented are
refused, never ignored."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rarefy.serving.errors import ApiError

Ids = Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Texts = Text | Annotated[list[Text], Field(min_length=1)] | Ids | Annotated[list[Ids], Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())

    model: str
    user: str | None = None  # taken and not looked at, as are the next two
    metadata: dict[str, Any] | None = None
    store: bool | None = None


class EmbeddingAsked(_Asked):
    """Body of /v1/embeddings."""

    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool | None = None  # of padding against eavesdroppers, which this server has none of


class Generating(_Asked):
    """What completions and chats have in common. The last fields only have the values at which they change nothing."""

    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    max_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63, strict=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def most_tokens(self) -> int | None:
        return self.max_tokens

    def with_usage(self) -> bool:
        """Whether the last piece of a stream counts tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionAsked(Generating):
    """Body of /v1/completions."""

    prompt: Texts
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None

    def most_tokens(self) -> int | None:
        return 16 if self.max_tokens is None else self.max_tokens  # the interface's own default


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    def said(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatAsked(Generating):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    logprobs: Literal[False] | None = None

    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


A = TypeVar("A", bound=_Asked)


def parse(kind: type[A], body: bytes) -> A:
    """The request in a body of JSON. Raises ApiError that names the field at fault."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> ApiError:
    """The error of the first field at fault; of a field of several types that of the first type which it has at all."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first = next((one for one in found if not one["type"].endswith(("_type", "_parsing"))), found[0])
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is no JSON: {first['msg']}", code="invalid_json")
    param = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        message = f"Unrecognized or unsupported request argument: {param}"
    else:
        message = f"{param}: {first['msg']}" if param else first["msg"]
    return ApiError(400, message, param=param, code="invalid_value")
