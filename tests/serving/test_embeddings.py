"""Embeddings over HTTP are those of the model called alone, whoever shares a call with them."""

import base64
import threading

import numpy
import pytest
import torch

from rarefy.recipes.encoder import load_text_model

TEXTS = ["a cat sat on the mat", "stock markets fell sharply on Friday", "rain", "the weather in spring " * 12]


@pytest.fixture(scope="module")
def alone(encoder_folder):
    """Vectors of texts by the model itself, one text a call, in plain torch."""
    text = load_text_model(encoder_folder)
    return lambda texts: torch.cat([text.embed([one]) for one in texts]).numpy()


def test_vectors_are_the_models_own_in_the_order_of_the_texts(encoder, alone):
    found = encoder.client.embeddings.create(model="mini", input=TEXTS, encoding_format="float")
    vectors = numpy.array([row.embedding for row in found.data])
    assert [row.index for row in found.data] == [0, 1, 2, 3]
    assert vectors.shape == (4, 384)
    numpy.testing.assert_allclose(vectors, alone(TEXTS), atol=2e-5)
    assert abs(vectors[0] - vectors[1]).max() > 0.01  # and not all the same
    assert found.usage.prompt_tokens == found.usage.total_tokens > 50


def test_base64_and_numbers_are_the_same(encoder):
    said = [{"model": "mini", "input": "rain", "encoding_format": how} for how in ("float", "base64")]
    raw, packed = (encoder.client.post("/embeddings", body=one, cast_to=object)["data"][0]["embedding"] for one in said)
    assert isinstance(packed, str)
    numpy.testing.assert_array_equal(
        numpy.frombuffer(base64.b64decode(packed), "<f4"), numpy.array(raw, dtype=numpy.float32)
    )


def test_ids_are_taken_as_they_are(encoder, encoder_folder):
    ids = load_text_model(encoder_folder).tokenizer(TEXTS)["input_ids"]
    by_ids = encoder.client.embeddings.create(model="mini", input=ids).data
    by_text = encoder.client.embeddings.create(model="mini", input=TEXTS).data
    for a, b in zip(by_ids, by_text, strict=True):
        numpy.testing.assert_allclose(a.embedding, b.embedding, atol=2e-6)


def test_texts_of_several_clients_share_calls(encoder, alone):
    texts = [f"{word} number {i}" for i, word in enumerate(["bird", "fish", "tree", "stone"] * 6)]
    found: dict[int, list[float]] = {}
    before, batches = encoder.metric("rarefy_model_calls_total"), encoder.metric("rarefy_batch_texts_sum")
    start = threading.Barrier(len(texts))

    def ask(i):
        start.wait()
        found[i] = encoder.client.embeddings.create(model="mini", input=texts[i]).data[0].embedding

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = encoder.metric("rarefy_model_calls_total") - before
    assert encoder.metric("rarefy_batch_texts_sum") - batches == len(texts)
    assert len(texts) / 8 <= calls <= len(texts) / 2  # a batch holds 8
    numpy.testing.assert_allclose([found[i] for i in range(len(texts))], alone(texts), atol=2e-5)


def test_an_encoder_does_not_write(encoder):
    from openai import BadRequestError

    with pytest.raises(BadRequestError, match="embeds text"):
        encoder.client.completions.create(model="mini", prompt="a")


def test_models_and_health(encoder):
    assert [model.id for model in encoder.client.models.list()] == ["mini"]
    assert encoder.client.models.retrieve("mini").owned_by == "rarefy"
    assert encoder.ask("GET", "/health")[0] == 200
    assert encoder.metric("process_resident_memory_bytes") > 1e6
    assert encoder.metric('rarefy_requests_total{route="/health",status="200"}') >= 1
