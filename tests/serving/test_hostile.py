"""Clients that send nonsense, too much, too slowly, or leave are refused in good form; others notice nothing."""

import json
import socket
import threading
import time

import pytest

GOOD = {"model": "mini", "input": "rain"}


def error_of(body):
    found = json.loads(body)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"model":' * 20_000,
        b'{"model":"mini","input":NaN}',
        b'{"model":"mini","input":"\\ud800"}',
        b'{"model":"mini","input":5}',
        b'{"model":"mini","input":{"a":1}}',
        b'{"model":"mini","input":["a",5]}',
        b'{"model":"mini","input":[-1]}',
        b'{"model":"mini","input":[1e99]}',
        b'{"model":"mini","input":[true]}',
        b'{"model":"mini","input":[99999999999999999999999]}',
        b'{"model":"mini","input":[30521, 30522]}',
        b'{"model":"mini","input":""}',
        b'{"model":"mini","input":[]}',
        b'{"model":"mini","input":[[]]}',
        b'{"model":["mini"],"input":"a"}',
        b'{"model":"mini","input":"a","encoding_format":"hex"}',
        b'{"model":"mini","input":"a","dimensions":7}',
        json.dumps({"model": "mini", "input": ["a"] * 33}).encode(),
        json.dumps({"model": "mini", "input": "a " * 600}).encode(),
        json.dumps({"model": "mini", "input": "a" * 100_000}).encode(),
    ],
    ids=lambda body: repr(body[:40]),
)
def test_nonsense_is_a_bad_request(encoder, body):
    status, _, said = encoder.ask("POST", "/v1/embeddings", body)
    assert status == 400
    assert error_of(said)["type"] == "invalid_request_error"


def test_other_refusals_say_what_is_wrong(encoder):
    good = json.dumps(GOOD)
    for expected, found in {
        404: encoder.ask("POST", "/v1/embeddings", json.dumps(GOOD | {"model": "gpt"})),
        405: encoder.ask("GET", "/v1/embeddings"),
        415: encoder.ask("POST", "/v1/embeddings", good, Content_Type="text/plain"),
        403: encoder.ask("POST", "/v1/embeddings", good, Host="evil.example"),
        413: encoder.ask("POST", "/v1/embeddings", b"x" * (2**20 + 1)),
    }.items():
        assert found[0] == expected
        assert error_of(found[2])["message"]
    assert encoder.ask("GET", "/no/such/route")[0] == 404


def test_a_body_without_a_length_is_bounded_too(encoder):
    def endless():
        for _ in range(40):
            yield b"x" * 2**16

    status, _, said = encoder.ask("POST", "/v1/embeddings", endless())
    assert status == 413 and error_of(said)["code"] == "body_too_large"


def head_of(route, length):
    said = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    return f"POST {route} HTTP/1.1\r\n{said}".encode()


def closed_after(port, first, then=b"", most=6.0):
    """Seconds until the server closes a connection that sends `first`, and then `then` again and again; its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=0.2) as link:
        began, answer = time.monotonic(), b""
        link.sendall(first)
        while time.monotonic() - began < most:
            try:
                if then:
                    link.sendall(then)
                if not (got := link.recv(4096)):
                    break
                answer += got
            except TimeoutError:
                continue
            except OSError:
                break
        return time.monotonic() - began, answer


def test_slow_senders_are_cut_off_and_others_served_meanwhile(encoder):
    head = head_of("/v1/embeddings", 900)
    found = {}
    slow = {
        "silent": (b"", b""),
        "head": (b"POST /v1/embeddings HTTP/1.1\r\n", b"X-A: b\r\n"),
        "body": (head + b'{"model"', b" "),
        "second": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he", b"a"),
    }
    threads = [
        threading.Thread(target=lambda n=name, s=sent: found.__setitem__(n, closed_after(encoder.port, *s)))
        for name, sent in slow.items()
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert encoder.client.embeddings.create(**GOOD).data
    for name, (seconds, _) in found.items():
        assert seconds < 4, name  # it had one second
    assert b" 408 " in found["body"][1] and b"too_slow" in found["body"][1]
    assert found["second"][1].startswith(b"HTTP/1.1 200")


def until(condition, seconds=8.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_text_whose_reader_leaves_is_dropped(writer):
    before = writer.metric('rarefy_dropped_total{reason="gone"}')
    for stream in (True, False):
        body = json.dumps({"model": "tiny", "prompt": "go", "max_tokens": 400, "stream": stream}).encode()
        head = head_of("/v1/completions", len(body))
        links = [socket.create_connection(("127.0.0.1", writer.port)) for _ in range(6)]
        for link in links:
            link.sendall(head + body)
        until(lambda: writer.metric("rarefy_active_texts") > 0)
        for link in links:
            link.close()
    until(lambda: writer.metric("rarefy_active_texts") == 0 and writer.metric("rarefy_waiting_texts") == 0)
    assert writer.metric('rarefy_dropped_total{reason="gone"}') > before
    assert writer.client.completions.create(model="tiny", prompt="a", max_tokens=3).choices


def test_more_than_fits_is_told_when_to_come_back(writer):
    from openai import RateLimitError

    with pytest.raises(RateLimitError) as caught:
        writer.client.completions.create(model="tiny", prompt=["go"] * 17, max_tokens=2)
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    assert caught.value.code == "queue_full"
    assert writer.client.completions.create(model="tiny", prompt="a", max_tokens=3).choices
