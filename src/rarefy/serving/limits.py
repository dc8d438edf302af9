"""How much a server takes on: from one client, from all, and for how long."""

from dataclasses import dataclass, fields

from rarefy.core.errors import EngineError


@dataclass(frozen=True)
class Limits:
    """What bounds time and memory; a request beyond a limit is refused with an error that names it.

    body_bytes: of one request; inputs: texts in one request; input_tokens: of one text (None: what the model takes);
    new_tokens: generated for one text; queue: texts that wait for the model; batch: texts of one call of an encoder;
    wait_ms: how long a text may wait for others to share a call; active: texts generated side by side;
    request_s: from a request to its answer; client_s: for a client to send a request or to take a piece of an answer;
    idle_s: a connection without a request stays open; connections: at a time; stop_s: for the last requests at the end.
    """

    body_bytes: int = 2**20
    inputs: int = 256
    input_tokens: int | None = None
    new_tokens: int = 1024
    queue: int = 1024
    batch: int = 16
    wait_ms: float = 2.0
    active: int = 8
    request_s: float = 120.0
    client_s: float = 20.0
    idle_s: float = 5.0
    connections: int = 512
    stop_s: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "wait_ms" else 1e-3 if field.name.endswith("_s") else 1
            if value is not None and not value >= least:
                raise EngineError(f"serve: {field.name}={value} is too small; give at least {least}")
