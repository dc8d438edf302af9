"""A server process: from a folder to a port, and to an orderly end."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn

from rarefy.serving.app import app_of
from rarefy.serving.desk import Desk
from rarefy.serving.limits import Limits
from rarefy.serving.metrics import Metrics
from rarefy.serving.model import How, Served, serve_folder
from rarefy.serving.protocol import bounded

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class _Server(uvicorn.Server):
    """Ends with exit code 0 where it was asked to stop; uvicorn's own raises the signal once more."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # others are told by `should_exit`
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def desk_of(folder: Path, name: str, limits: Limits, how: How = How(), threads: int | None = None) -> Desk:
    """The model of a folder at work. threads: of the model's calls; None: torch's own number. Raises RarefyError."""

    def make() -> Served:
        if threads is not None:
            torch.set_num_threads(threads)
        return serve_folder(folder, how, batch=limits.batch)

    desk = Desk(make, name, limits, Metrics())
    desk.start()
    return desk


def server_of(desk: Desk, host: str, port: int, log_level: str = "info") -> uvicorn.Server:
    """The HTTP server of a desk; `run()` returns after it was told to stop and the last request was answered."""
    limits = desk.limits
    config = uvicorn.Config(
        app_of(desk, here_only=host in _LOOPBACK),
        host=host,
        port=port,
        http=bounded(limits.client_s),
        ws="none",
        lifespan="on",
        limit_concurrency=limits.connections,
        timeout_keep_alive=max(1, round(limits.idle_s)),
        timeout_graceful_shutdown=max(1, round(limits.stop_s)),
        h11_max_incomplete_event_size=2**15,
        access_log=False,
        server_header=False,
        log_level=log_level,
    )
    return _Server(config)


def serve(folder: Path, name: str, host: str, port: int, limits: Limits, how: How, threads: int | None) -> None:
    """Serves until SIGTERM or SIGINT; then refuses new requests, finishes the others and returns."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    desk = desk_of(folder, name, limits, how, threads)
    log = logging.getLogger("rarefy.serving")
    log.info("%s", desk.served.explain())
    log.info("%s on http://%s:%d, OpenAI's interface below /v1", name, host, port)
    server_of(desk, host, port).run()
