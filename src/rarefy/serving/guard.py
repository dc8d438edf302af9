"""What stands before every route: sizes, slow senders, foreign hosts; and the count of what was answered."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from rarefy.serving.errors import ApiError
from rarefy.serving.limits import Limits
from rarefy.serving.metrics import Metrics
from rarefy.serving.replies import encoded

_HERE = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Guard:
    """ASGI around an app. here_only: answers only requests that name this machine as their host, so that no page of
    another site can reach a server on loopback by a name of its own."""

    def __init__(self, app: Any, limits: Limits, metrics: Metrics, here_only: bool) -> None:
        self._app, self._limits, self._metrics, self._here_only = app, limits, metrics, here_only

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watch = _Watch(send)
        began = time.monotonic()
        try:
            refused = self._refused(scope)
            if refused is None:
                await self._app(scope, _Bounded(receive, self._limits), watch)
            else:
                await _drain(receive, self._limits)
                await _answer(watch, refused)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(watch.status)).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - began)

    def _refused(self, scope: Any) -> ApiError | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self._here_only and name.lower() not in _HERE:
            return ApiError(403, f"This server answers only to {', '.join(sorted(_HERE))}", code="host", close=True)
        if (
            scope["method"] == "POST"
            and headers.get(b"content-type", b"").split(b";")[0].strip() != b"application/json"
        ):
            return ApiError(415, "Send JSON, with Content-Type: application/json", code="content_type", close=True)
        said = headers.get(b"content-length", b"0")
        return too_large(self._limits) if not said.isdigit() or int(said[:20]) > self._limits.body_bytes else None


def too_large(limits: Limits) -> ApiError:
    return ApiError(413, f"The body is larger than {limits.body_bytes} bytes", code="body_too_large", close=True)


class _Watch:
    """A `send` that remembers the status; 499 where the client left before there was one."""

    def __init__(self, send: Any) -> None:
        self._send, self.status = send, 499

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class _Bounded:
    """A `receive` that gives a body so many bytes and seconds."""

    def __init__(self, receive: Any, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._until = time.monotonic() + limits.client_s
        self._bytes, self._whole = 0, False

    async def __call__(self) -> Any:
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._until - time.monotonic())
        except asyncio.TimeoutError:  # not the builtin before Python 3.11
            raise ApiError(408, "The request came too slowly", code="too_slow", close=True) from None
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > self._limits.body_bytes:
            await _drain(self._receive, self._limits)
            raise too_large(self._limits)
        return message


async def _drain(receive: Any, limits: Limits) -> None:
    """Takes what a client still sends, within bounds: one that is cut off while it sends never reads the answer."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_take(receive, 8 * limits.body_bytes), limits.client_s)


async def _take(receive: Any, left: int) -> None:
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if not message.get("more_body", False):
            return


async def _answer(send: Any, error: ApiError) -> None:
    headers = {"Content-Type": "application/json"} | error.headers()
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": encoded(error.body())})
