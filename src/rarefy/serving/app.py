"""The routes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST

from rarefy.serving import replies
from rarefy.serving.desk import Desk, Writing
from rarefy.serving.errors import ApiError, failed
from rarefy.serving.guard import Guard
from rarefy.serving.wire import ChatAsked, CompletionAsked, EmbeddingAsked, Generating, parse

log = logging.getLogger("rarefy.serving")
T = TypeVar("T")


def app_of(desk: Desk, *, here_only: bool = True) -> Any:
    """The ASGI app of a model that was started; stopping it finishes what was taken in."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(desk.stop)

    app = FastAPI(title="rarefy", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(HTTPException, _told_by_routing)
    app.add_exception_handler(404, _told_by_routing)
    app.add_exception_handler(405, _told_by_routing)
    app.add_exception_handler(RequestValidationError, _told_by_routing)
    app.add_exception_handler(Exception, _unforeseen)

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        asked = parse(EmbeddingAsked, await request.body())
        return _json(await _unless_gone(request, desk.embeddings(asked)))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _generated(desk, request, parse(CompletionAsked, await request.body()))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _generated(desk, request, parse(ChatAsked, await request.body()))

    @app.get("/v1/models")
    async def models() -> Response:
        return _json(replies.encoded({"object": "list", "data": [_model(desk)]}))

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name != desk.name:
            raise ApiError(404, f"The model {name!r} does not exist here", param="model", code="model_not_found")
        return _json(replies.encoded(_model(desk)))

    @app.get("/health")
    async def health() -> Response:
        said = {"status": "ok" if desk.well else "stopping", "model": desk.name}
        return _json(replies.encoded(said), 200 if desk.well else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(desk.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return Guard(app, desk.limits, desk.metrics, here_only)


def _model(desk: Desk) -> dict[str, Any]:
    return {"id": desk.name, "object": "model", "created": desk.created, "owned_by": "rarefy"}


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return Response(replies.encoded(error.body()), error.status, error.headers(), "application/json")


async def _told_by_routing(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 400)
    return await _told(request, ApiError(status, f"{request.method} {request.url.path}: {error}", code="route"))


async def _unforeseen(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return await _told(request, failed())


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives; it is cancelled when the client leaves. Raises ApiError 499 then, which nobody reads."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "The client left", code="gone")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _generated(desk: Desk, request: Request, asked: Generating) -> Response:
    prompts = await desk.prompts(asked)
    answer = replies.Answer(isinstance(asked, ChatAsked), desk.name)
    read = sum(map(len, prompts))
    writing = desk.write(prompts, asked)
    if asked.stream:
        events = _events(answer, writing, read if asked.with_usage() else None)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    try:
        texts = await _unless_gone(request, writing.whole())
    finally:
        writing.leave()
    return _json(answer.whole(texts, read, sum(writing.tokens)))


async def _events(answer: replies.Answer, writing: Writing, read: int | None) -> AsyncIterator[bytes]:
    """The events of a stream; read: tokens of the prompts, where the client wants them counted."""
    try:
        if (first := answer.first()) is not None:
            yield first
        async for index, piece in writing.pieces():
            yield answer.piece(index, piece.text, piece.finish)
        if read is not None:
            yield answer.counted(read, sum(writing.tokens))
        yield replies.DONE
    except ApiError as error:  # the status was sent long ago
        yield replies.event(error.body())
    finally:
        writing.leave()
