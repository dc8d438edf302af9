"""Completions and chats over HTTP are what the compiled model generates alone."""

import threading

import pytest
import torch

import rarefy
from rarefy.recipes.encoder import load_text_model
from rarefy.serving.model import How, serve_folder
from rarefy.serving.rows import OneByOne, SideBySide

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def alone(writer_folder):
    """The text that the compiled model generates behind a prompt, and the number of its tokens."""
    text = load_text_model(writer_folder)
    fast = rarefy.compile(text.model, {"input_ids": text.example(1, 64)["input_ids"]}, measure=False)

    def write(prompt, new, **how):
        ids = torch.tensor([text.tokenizer(prompt)["input_ids"]])
        how = {"do_sample": False} | how
        found = fast.generate(ids, max_new_tokens=new, eos_token_id=1, **how)[0, ids.shape[1] :].tolist()
        return text.tokenizer.decode(found, skip_special_tokens=True), len(found)

    return write


def test_texts_of_a_compiled_model_go_on_in_one_call(writer_folder):
    served = serve_folder(writer_folder)
    rows, single = served.rows(), OneByOne(served.step)
    assert isinstance(rows, SideBySide)
    assert isinstance(serve_folder(writer_folder, How(dense=True)).rows(), OneByOne)
    for tokens in (5, 9, 2):
        ids = torch.arange(3, 3 + tokens)[None]
        torch.testing.assert_close(rows.add(ids), single.add(ids), atol=1e-3, rtol=1e-3)
    rows.keep([2, 0]), single.keep([2, 0])
    for _ in range(3):
        token = torch.tensor([[7], [8]])
        for ours, alone in zip(rows.step(token), single.step(token), strict=True):
            torch.testing.assert_close(ours, alone, atol=1e-3, rtol=1e-3)


def complete(server, prompt=PROMPT, **more):
    return server.client.completions.create(**{"model": "tiny", "prompt": prompt, "temperature": 0} | more)


def test_greedy_text_is_the_models_own(writer, alone):
    found = complete(writer, max_tokens=60)
    expected, tokens = alone(PROMPT, 60)
    assert found.choices[0].text == expected
    assert len(set(expected)) > 5
    assert found.usage.completion_tokens == tokens
    assert found.usage.prompt_tokens == len(PROMPT)
    assert found.choices[0].finish_reason == ("length" if tokens == 60 else "stop")


def test_drawn_text_follows_the_seed(writer, alone):
    asked = {"temperature": 0.8, "top_p": 0.9, "max_tokens": 40}
    found = [complete(writer, **asked, seed=seed).choices[0].text for seed in (1, 1, 2)]
    expected, _ = alone(PROMPT, 40, do_sample=True, temperature=0.8, top_p=0.9, top_k=0, seed=1)
    assert found[0] == found[1] == expected != found[2]


def test_a_stream_adds_up_to_the_whole_and_counts(writer, alone):
    pieces = list(complete(writer, max_tokens=50, stream=True, stream_options={"include_usage": True}))
    expected, tokens = alone(PROMPT, 50)
    texts = [piece.choices[0].text for piece in pieces if piece.choices]
    assert "".join(texts) == expected
    assert len(texts) > 3
    assert pieces[-1].choices == [] and pieces[-1].usage.completion_tokens == tokens
    assert [p.choices[0].finish_reason for p in pieces[:-1]] == [None] * (len(pieces) - 2) + ["length"]


def test_texts_end_before_a_stop_string(writer, alone):
    expected, _ = alone(PROMPT, 60)
    stop = expected[20:23]
    for stream in (False, True):
        found = complete(writer, max_tokens=60, stop=["never this", stop], stream=stream)
        choices = [piece.choices[0] for piece in found] if stream else found.choices
        assert "".join(choice.text for choice in choices) == expected[: expected.index(stop)]
        assert choices[-1].finish_reason == "stop"


def test_several_prompts_and_several_clients_at_once(writer, alone):
    prompts = ["alpha", "beta is longer", "c"]
    found: dict[int, list[str]] = {}
    calls, written = (writer.metric(f"rarefy_{name}_total") for name in ("model_calls", "tokens_written"))

    def ask(i):
        found[i] = [choice.text for choice in complete(writer, prompts, max_tokens=30).choices]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [alone(prompt, 30)[0] for prompt in prompts]
    assert found == dict.fromkeys(range(3), expected)
    written = writer.metric("rarefy_tokens_written_total") - written
    assert writer.metric("rarefy_model_calls_total") - calls < 0.7 * written  # texts share calls


def test_chats_go_through_the_models_template(writer, alone):
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    asked = {"model": "tiny", "messages": messages, "temperature": 0, "max_completion_tokens": 20}
    expected, _ = alone("system:be brief\nuser:hi\nassistant:", 20)
    whole = writer.client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == expected
    pieces = list(writer.client.chat.completions.create(**asked, stream=True))
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == expected


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"max_tokens": 401}, None),
        ({"prompt": "x" * 513}, "context_length_exceeded"),
        ({"prompt": "x" * 400, "max_tokens": 200}, "context_length_exceeded"),
        ({"prompt": [3, 4, 100000]}, None),
        ({"n": 2}, "invalid_value"),
        ({"presence_penalty": 0.5}, "invalid_value"),
        ({"echo": True}, "invalid_value"),
        ({"logprobs": 2}, "invalid_value"),
        ({"temperature": -1}, "invalid_value"),
        ({"top_p": 0}, "invalid_value"),
        ({"extra_body": {"no_such_field": 1}}, "invalid_value"),
    ],
)
def test_what_cannot_be_done_is_refused(writer, more, code):
    from openai import BadRequestError

    with pytest.raises(BadRequestError) as caught:
        complete(writer, **more)
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param in ("prompt", "max_tokens", "no_such_field", *more)
