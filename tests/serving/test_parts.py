"""The parts of the server alone: the queue, batches at which the model fails, and text from tokens."""

import threading
import time

import pytest
import torch

from rarefy.core.errors import EngineError
from rarefy.serving.batching import Batcher, Vectors, rows_of
from rarefy.serving.detokenize import Words
from rarefy.serving.engine import Engine, Pace
from rarefy.serving.errors import ApiError
from rarefy.serving.generation import Generator, Piece, Text
from rarefy.serving.inbox import ClosedError, FullError, Inbox
from rarefy.serving.limits import Limits
from rarefy.serving.metrics import Metrics
from rarefy.serving.rows import OneByOne


def test_an_inbox_takes_all_or_none_and_keeps_the_order():
    inbox = Inbox(3)
    inbox.put([1, 2])
    with pytest.raises(FullError):
        inbox.put([3, 4])
    inbox.put([3])
    assert inbox.take(2) == [1, 2] and inbox.take(5) == [3] and inbox.taken == 3
    inbox.close()
    with pytest.raises(ClosedError):
        inbox.put([1])


def test_gathering_ends_when_there_are_enough_or_the_oldest_has_waited():
    inbox = Inbox(10)
    inbox.put([1])
    began = time.monotonic()
    inbox.gather(4, 0.15)
    assert 0.1 < time.monotonic() - began < 2
    inbox.put([2])
    threading.Timer(0.05, lambda: inbox.put([3, 4])).start()
    began = time.monotonic()
    Inbox.gather(inbox, 4, 30)
    assert len(inbox) == 4 and time.monotonic() - began < 10
    inbox.close()
    inbox.gather(9, 30)  # nothing more can come
    assert time.monotonic() - began < 10


def test_only_the_text_at_which_the_model_fails_gets_an_error():
    def embed(texts):
        if any(13 in text for text in texts):
            raise RuntimeError("thirteen")
        return torch.tensor([[float(sum(text))] for text in texts])

    inbox, later = Inbox(10), time.monotonic() + 60
    answers = [Vectors(2, later), Vectors(1, later), Vectors(1, later), Vectors(1, time.monotonic() - 1)]
    for answer, texts in zip(answers, [[[1, 2, 3], [4]], [[13]], [[5]], [[6]]], strict=True):
        inbox.put(rows_of(texts, answer))
    answers[2].future.cancel()
    Batcher(embed, Limits(wait_ms=0), Metrics()).turn(inbox)
    assert answers[0].future.result(0).tolist() == [[6.0], [4.0]]
    with pytest.raises(ApiError, match="failed"):
        answers[1].future.result(0)
    with pytest.raises(ApiError, match="longer"):
        answers[3].future.result(0)


def test_a_text_at_which_the_model_fails_or_that_is_late_ends_alone():
    def step(ids, cache):
        if 13 in ids:
            raise RuntimeError("thirteen")
        return torch.nn.functional.one_hot((ids[:, -1] + 1) % 9, 9).float(), None

    from rarefy.engine.decoder.sampling import Sampling

    found: dict[int, list[Piece]] = {0: [], 1: [], 2: []}
    late, soon = time.monotonic() - 1, time.monotonic() + 60
    texts = [
        Text(ids, 5, Sampling(), None, (), until, found[i].append)
        for i, (ids, until) in enumerate([([3], soon), ([13], soon), ([3], late)])
    ]
    worker = Generator(OneByOne(step), lambda ids: "".join(map(str, ids)), frozenset({7}), Limits(), Metrics())
    inbox = Inbox(5)
    inbox.put(texts)
    while worker.turn(inbox):
        pass
    assert "".join(piece.text for piece in found[0]) == "456" and found[0][-1].finish == "stop"
    assert [piece.error.status for i in (1, 2) for piece in found[i]] == [500, 504]


def said_by(words, ids):
    return [words.add(i) for i in ids], words.end()


def test_characters_of_several_bytes_come_whole():
    def decode(ids):
        return bytes(ids).decode("utf-8", errors="replace")

    pieces, rest = said_by(Words(decode), "aé€😀b".encode())
    assert "".join(pieces) + rest == "aé€😀b" and "�" not in "".join(pieces)
    pieces, rest = said_by(Words(decode), "a€".encode()[:-1])
    assert pieces == ["a", "", ""] and rest == "�"


def test_a_stop_string_is_found_across_tokens_and_what_only_begins_like_one_is_given_later():
    words = ["ab", "c", "STO", "x", " S", "TO", "P", "more"]
    found = Words(lambda ids: "".join(words[i] for i in ids), ["STOP", "zz"])
    pieces, rest = said_by(found, range(len(words)))
    assert found.stopped and rest == ""
    assert "".join(pieces) == "abcSTOx "
    assert pieces[2] == "" and pieces[3] == "STOx"
    kept = Words(lambda ids: "".join(words[i] for i in ids), ["STOP"])
    assert said_by(kept, [0, 2]) == (["ab", ""], "STO") and not kept.stopped


def test_where_the_worker_breaks_or_cannot_be_made_nothing_more_is_taken():
    class Broken:
        def turn(self, inbox):
            raise RuntimeError("broken")

    engine = Engine(Broken, Limits())
    engine.start()
    engine.submit([1])
    engine.stop(10)
    assert not engine.alive
    with pytest.raises(ApiError, match="stopping") as caught:
        engine.submit([2])
    assert caught.value.status == 503

    def no_model():
        raise EngineError("no model")

    with pytest.raises(EngineError, match="no model"):
        Engine(no_model, Limits()).start()


def test_when_to_come_back_follows_the_pace():
    pace = Pace()
    assert pace.seconds_for(100) == 1
    for _ in range(50):
        pace.note(2, 0.5)
    assert pace.seconds_for(40) == 10 and pace.seconds_for(10**6) == 60


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(EngineError, match="batch=0"):
        Limits(batch=0)
    assert Limits(wait_ms=0).wait_ms == 0
