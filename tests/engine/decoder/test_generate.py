"""Sampling, ends of texts, streaming and stop conditions, as `generate` of transformers has them."""

import threading

import pytest
import torch
from language_models import build, compiled, tokens

from rarefy.core.errors import EngineError
from rarefy.engine.decoder.sampling import Sampling


@pytest.fixture(scope="module")
def models():
    model = build("llama")
    return model, compiled(model)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_k": 0, "top_p": 0.8},
        {"top_k": 20, "top_p": 0.5, "temperature": 1.7},
    ],
)
def test_draws_are_those_of_transformers_from_the_same_random_state(models, how):
    model, fast = models
    ids, drawn = tokens(3, 6), []
    for which in (model, fast):
        torch.manual_seed(7)
        drawn.append(which.generate(ids, max_new_tokens=20, do_sample=True, **how))
    assert torch.equal(*drawn)
    torch.manual_seed(8)
    assert not torch.equal(fast.generate(ids, max_new_tokens=20, do_sample=True, **how), drawn[1])


def test_a_seed_or_a_generator_makes_draws_repeatable_and_leaves_torchs_state_alone(models):
    _, fast = models
    ids = tokens(2, 6)
    before = torch.random.get_rng_state()
    first = fast.generate(ids, max_new_tokens=12, do_sample=True, seed=3)
    assert torch.equal(first, fast.generate(ids, max_new_tokens=12, do_sample=True, seed=3))
    own = torch.Generator().manual_seed(3)
    assert torch.equal(first, fast.generate(ids, max_new_tokens=12, do_sample=True, generator=own))
    assert not torch.equal(first, fast.generate(ids, max_new_tokens=12, do_sample=True, seed=4))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_next_token_is_drawn_from_the_few_that_are_left():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    assert Sampling(True, top_k=2).scores(logits).isfinite().tolist() == [[False, True, False, True]]
    assert Sampling(True, top_k=0, top_p=0.6).scores(logits).isfinite().tolist() == [[False, True, False, False]]
    assert Sampling(True, top_k=0, top_p=1.0).scores(logits).isfinite().all()
    assert Sampling(True, top_k=99).scores(logits).isfinite().all()
    assert torch.equal(Sampling(True, temperature=0.5, top_k=0).scores(logits), 2 * logits)
    counts = torch.zeros(4)
    own = torch.Generator().manual_seed(0)
    for _ in range(400):
        counts[Sampling(True, top_k=2).next(logits, own)] += 1
    assert counts[0] == counts[2] == 0
    assert counts[1] / 400 == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item(), abs=0.08)


def test_texts_end_at_an_end_token_and_are_padded_from_there(models):
    model, fast = models
    ids = tokens(4, 6, seed=2)
    free = model.generate(ids, max_new_tokens=24, do_sample=False)
    ends = [int(free[0, 10]), int(free[2, 15])]
    for eos in (ends, ends[0]):
        ours = fast.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=eos, pad_token_id=0)
        assert torch.equal(
            ours, model.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=eos, pad_token_id=0)
        )
    assert (ours == 0).any()
    alone = fast.generate(ids[:1], max_new_tokens=24, do_sample=False, eos_token_id=ends[0])
    assert alone.shape[1] <= 11 and int(alone[0, -1]) == ends[0]


def test_settings_come_from_the_models_generation_config():
    model = build("qwen2")
    fast, ids = compiled(model), tokens(2, 5)
    free = model.generate(ids, max_new_tokens=20, do_sample=False)
    model.generation_config.eos_token_id = int(free[0, 9])
    model.generation_config.pad_token_id = 0
    model.generation_config.max_new_tokens = 20
    assert torch.equal(fast.generate(ids, do_sample=False), model.generate(ids, do_sample=False))
    model.generation_config.do_sample, model.generation_config.top_k = True, 3
    drawn = []
    for which in (model, fast):
        torch.manual_seed(1)
        drawn.append(which.generate(ids))
    assert torch.equal(*drawn)


def test_a_padding_token_in_the_prompt_is_hidden_as_in_transformers():
    model = build("gpt2")
    fast, ids = compiled(model), tokens(2, 8)
    ids[1, :3] = 0
    model.generation_config.pad_token_id = 0
    assert torch.equal(
        fast.generate(ids, max_new_tokens=10, do_sample=False), model.generate(ids, max_new_tokens=10, do_sample=False)
    )


class Collected:
    def __init__(self):
        self.pieces, self.ended = [], False

    def put(self, value):
        self.pieces.append(value.clone())

    def end(self):
        self.ended = True


def test_a_streamer_sees_the_prompt_and_every_token(models):
    _, fast = models
    streamer, ids = Collected(), tokens(1, 6)
    out = fast.generate(ids, max_new_tokens=9, do_sample=False, streamer=streamer)
    assert streamer.ended and len(streamer.pieces) == 10
    assert torch.equal(torch.cat([piece.view(-1) for piece in streamer.pieces]), out[0])


def test_the_text_streamer_of_transformers_takes_what_it_is_given(models, capsys):
    from transformers import TextStreamer

    class Words:
        def decode(self, ids, **_):
            return " ".join(map(str, ids.tolist() if hasattr(ids, "tolist") else ids)) + " "

    _, fast = models
    out = fast.generate(
        tokens(1, 4), max_new_tokens=5, do_sample=False, streamer=TextStreamer(Words(), skip_prompt=True)
    )
    assert capsys.readouterr().out.split() == [str(i) for i in out[0, 4:].tolist()]


def test_stop_conditions(models):
    _, fast = models
    ids = tokens(2, 6)
    free = fast.generate(ids, max_new_tokens=20, do_sample=False)
    out = fast.generate(
        ids, max_new_tokens=20, do_sample=False, stopping_criteria=lambda so_far, _: so_far.shape[1] >= 11
    )
    assert torch.equal(out, free[:, :11])


def test_stopping_criteria_of_transformers(models):
    from transformers import MaxLengthCriteria, StoppingCriteriaList

    model, fast = models
    ids = tokens(2, 6)
    criteria = StoppingCriteriaList([MaxLengthCriteria(13)])
    kwargs = {"max_new_tokens": 20, "do_sample": False, "stopping_criteria": criteria}
    assert torch.equal(fast.generate(ids, **kwargs), model.generate(ids, **kwargs))


def test_lengths(models):
    model, fast = models
    ids = tokens(1, 6)
    assert fast.generate(ids, max_length=15, do_sample=False).shape == (1, 15)
    for which in (model, fast):
        with pytest.raises((ValueError, EngineError), match="max_new_tokens"):
            which.generate(ids, max_new_tokens=0, do_sample=False)
    assert fast.generate(ids, do_sample=False).shape == model.generate(ids, do_sample=False).shape
    assert fast.generate(ids[:0], max_new_tokens=3, do_sample=False).shape == (0, 9)
    assert len(fast.last.tokens) == 0
    fast.generate(ids, max_new_tokens=4, do_sample=False)
    assert fast.last.prompt > 0 and len(fast.last.tokens) == 3


def test_a_length_of_the_configuration(models):
    from transformers import GenerationConfig

    model, fast = models
    ids = tokens(1, 6)
    for config in (GenerationConfig(max_length=11, pad_token_id=0), GenerationConfig(pad_token_id=0)):
        kwargs = {"generation_config": config, "do_sample": False}
        assert fast.generate(ids, **kwargs).shape == model.generate(ids, **kwargs).shape


def test_what_the_runtime_does_not_know_runs_in_the_source(models):
    model, fast = models
    ids = tokens(1, 6)
    for more in ({"num_beams": 3}, {"repetition_penalty": 1.5}):
        assert torch.equal(
            fast.generate(ids, max_new_tokens=8, do_sample=False, **more),
            model.generate(ids, max_new_tokens=8, do_sample=False, **more),
        )
    embedded = model.get_input_embeddings()(ids)
    torch.testing.assert_close(fast(inputs_embeds=embedded).logits, model(inputs_embeds=embedded).logits)
    assert float(fast(input_ids=ids, labels=ids).loss) == pytest.approx(float(model(input_ids=ids, labels=ids).loss))
    assert len(fast(input_ids=ids, output_hidden_states=True).hidden_states) == 4


def test_several_threads_generate_at_once(models):
    _, fast = models
    prompts = [tokens(1 + i % 3, 4 + 3 * i, seed=i) for i in range(8)]
    want = [fast.generate(p, max_new_tokens=30, do_sample=False) for p in prompts]
    wrong = []

    def work(which):
        for turn in range(6):
            at = (which + turn) % len(prompts)
            if not torch.equal(fast.generate(prompts[at], max_new_tokens=30, do_sample=False), want[at]):
                wrong.append(at)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
