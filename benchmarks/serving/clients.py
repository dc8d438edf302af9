"""Clients of every kind: one that asks and checks, and those that break the rules."""

import http.client
import json
import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

WORDS = ("river", "stone", "market", "winter", "quickly", "small", "engine", "light", "of", "the", "and", "seven")
JSON = {"Content-Type": "application/json"}


def text(choose: random.Random, least: int = 5, most: int = 60) -> str:
    return " ".join(choose.choices(WORDS, k=choose.randint(least, most)))


@dataclass
class Count:
    """What a client saw: requests, those that failed though they were good, milliseconds of each, texts or tokens."""

    requests: int = 0
    failed: list[str] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    done: int = 0


def good(kind: str, port: int, until: float, seed: int, many: int) -> Count:
    """Asks one request after the other over one connection. many: texts a request, or tokens of a text."""
    choose, count = random.Random(seed), Count()
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            count.done += (embed if kind == "encoder" else stream)(link, choose, many)
        except Exception as error:
            count.failed.append(f"{type(error).__name__}: {error}")
            link.close()
        count.requests += 1
        count.ms.append((time.monotonic() - began) * 1e3)
    link.close()
    return count


def embed(link: http.client.HTTPConnection, choose: random.Random, many: int) -> int:
    body = json.dumps({"model": "m", "input": [text(choose) for _ in range(many)], "encoding_format": "base64"})
    link.request("POST", "/v1/embeddings", body, JSON)
    answer = link.getresponse()
    found = json.loads(answer.read())
    assert answer.status == 200 and len(found["data"]) == many, found
    return many


def stream(link: http.client.HTTPConnection, choose: random.Random, many: int) -> int:
    usage = {"include_usage": True}
    asked = {"model": "m", "prompt": text(choose, 2, 10), "max_tokens": many, "stream": True, "stream_options": usage}
    link.request("POST", "/v1/completions", json.dumps(asked), JSON)
    answer = link.getresponse()
    said = answer.read().decode()
    assert answer.status == 200 and said.endswith("data: [DONE]\n\n"), said[-200:]
    tokens = json.loads(said.split("data: ")[-2])["usage"]["completion_tokens"]
    assert tokens == many, tokens
    return many


def _head(path: str, length: int) -> bytes:
    said = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    return f"POST {path} HTTP/1.1\r\n{said}".encode()


def _whole(path: str, value: object) -> bytes:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return _head(path, len(body)) + body


def attacks(path: str) -> dict[str, Callable[[socket.socket], None]]:
    """Ways to break the rules, each given an open connection."""
    long = {"model": "m", "input": ["rain " * 100] * 64, "prompt": "go", "max_tokens": 400, "stream": True}
    long.pop("input" if "completions" in path else "prompt")
    asked = long if "completions" in path else {"model": "m", "input": ["rain " * 100] * 64}

    def drip(link: socket.socket, first: bytes) -> None:
        link.sendall(first)
        for _ in range(200):
            link.sendall(b"a")
            time.sleep(0.1)

    def leave(link: socket.socket) -> None:
        link.sendall(_whole(path, asked))
        time.sleep(0.05)

    def never_read(link: socket.socket) -> None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.sendall(_whole(path, asked))
        time.sleep(8)

    return {
        "silent": lambda link: time.sleep(8),
        "head by drops": lambda link: drip(link, b"POST " + path.encode() + b" HTTP/1.1\r\nX-A: "),
        "body by drops": lambda link: drip(link, _head(path, 5000)),
        "leaves at once": leave,
        "never reads": never_read,
        "no HTTP": lambda link: link.sendall(random.randbytes(5000)),
        "no JSON": lambda link: link.sendall(_whole(path, b"{" * 5000)),
        "deep JSON": lambda link: link.sendall(_whole(path, b"[" * 500_000)),
        "8 MB": lambda link: link.sendall(_whole(path, b"x" * 8_000_000)),
        "a terabyte, it says": lambda link: link.sendall(_head(path, 10**12) + b"x" * 10_000),
        "head without end": lambda link: link.sendall(b"GET /" + b"a" * 1_000_000),
        "wrong types": lambda link: link.sendall(_whole(path, {"model": 5, "input": {"a": [None]}})),
        "pipelined": lambda link: link.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000),
    }


def attack(name: str, path: str, port: int, until: float) -> int:
    """Breaks the rules in one way until the time is over; how often."""
    done = 0
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as link:
            attacks(path)[name](link)
            link.recv(4096)
        done += 1
        time.sleep(0.1)
    return done
