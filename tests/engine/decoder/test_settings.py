"""What holds for one `generate`: arguments over the given generation config over the model's, as in transformers."""

import pytest
import torch
from language_models import build, compiled, tokens
from transformers import EosTokenCriteria, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from rarefy.core.errors import EngineError
from rarefy.engine.decoder.sampling import Sampling

IDS = tokens(3, 6, seed=2)


@pytest.fixture
def models():
    model = build("llama")
    return model, compiled(model)


def _same(models, seed=5, **how):
    """The tokens that both models write from the same random state."""
    written = []
    for which in models:
        torch.manual_seed(seed)
        written.append(which.generate(IDS, **how))
    assert torch.equal(*written)
    return written[1]


def _set(model, **settings):
    for name, value in settings.items():
        setattr(model.generation_config, name, value)


def test_a_given_config_leaves_the_end_token_of_the_models_config(models):
    free = _same(models, max_new_tokens=20, do_sample=False)
    _set(models[0], eos_token_id=[int(row[9]) for row in free], pad_token_id=0)
    ended = _same(models, generation_config=GenerationConfig(max_new_tokens=20, do_sample=False))
    assert (ended == 0).any() or ended.shape[1] < free.shape[1]


def test_a_given_config_leaves_the_sampling_of_the_models_config(models):
    _set(models[0], do_sample=True, top_k=3, temperature=0.5)
    drawn = _same(models, generation_config=GenerationConfig(max_new_tokens=12))
    assert not torch.equal(drawn, _same(models, max_new_tokens=12, do_sample=False))
    own = _same(models, generation_config=GenerationConfig(max_new_tokens=12, top_k=40, temperature=2.0))
    assert not torch.equal(drawn, own)


def test_a_given_config_leaves_the_penalties_of_the_models_config(models):
    plain = _same(models, max_new_tokens=20, do_sample=False)
    _set(models[0], repetition_penalty=1.8)
    config = GenerationConfig(max_new_tokens=20, do_sample=False)
    assert not torch.equal(_same(models, generation_config=config), plain)
    assert torch.equal(_same(models, generation_config=config, repetition_penalty=1.0), plain)


def test_a_given_config_is_not_changed(models):
    _set(models[0], top_k=3, eos_token_id=4)
    config = GenerationConfig(max_new_tokens=4)
    before = config.to_dict()
    models[1].generate(IDS, generation_config=config, do_sample=False)
    assert config.to_dict() == before and models[0].generation_config.max_new_tokens is None


def test_an_end_token_of_none_lets_texts_go_on(models):
    free = _same(models, max_new_tokens=20, do_sample=False)
    _set(models[0], eos_token_id=[int(row[8]) for row in free], pad_token_id=0)
    assert torch.equal(_same(models, max_new_tokens=20, do_sample=False, eos_token_id=None), free)


def test_a_top_k_of_none_draws_from_all_tokens(models):
    drawn = _same(models, max_new_tokens=20, do_sample=True, top_k=None, temperature=3.0)
    assert torch.equal(drawn, _same(models, max_new_tokens=20, do_sample=True, top_k=0, temperature=3.0))
    assert not torch.equal(drawn, _same(models, max_new_tokens=20, do_sample=True, temperature=3.0))


class _RowsApart(StoppingCriteria):
    def __call__(self, ids, scores, **more):
        return torch.tensor([ids.shape[1] >= 8 + 3 * row for row in range(ids.shape[0])])


@pytest.mark.parametrize("eos", [None, 96, "criterion"])
def test_rows_that_a_condition_ends_are_filled_as_in_transformers(models, eos):
    _set(models[0], eos_token_id=95, pad_token_id=0)
    stops = StoppingCriteriaList([_RowsApart()])
    if eos == "criterion":
        stops.append(EosTokenCriteria(96))
    given = {"eos_token_id": None if eos == "criterion" else eos, "stopping_criteria": stops}
    written = _same(models, max_new_tokens=20, do_sample=False, **given)
    assert written.shape[1] == 14
    assert bool((written[0, 8:] == 0).all()) == (eos is not None)


def test_a_length_of_either_config(models):
    assert _same(models, generation_config=GenerationConfig(), do_sample=False).shape[1] == 26
    _set(models[0], max_length=13)
    assert _same(models, generation_config=GenerationConfig(), do_sample=False).shape[1] == 13
    assert _same(models, generation_config=GenerationConfig(max_length=10), do_sample=False).shape[1] == 10
    assert _same(models, max_new_tokens=2, do_sample=False).shape[1] == 8


def test_what_transformers_refuses_is_refused(models):
    for count in (0, -2):
        with pytest.raises(EngineError, match=f"max_new_tokens={count} is zero or negative"):
            models[1].generate(IDS, max_new_tokens=count)
    config = GenerationConfig(max_new_tokens=3)
    config.early_stopping = "sometimes"
    with pytest.raises(EngineError, match="transformers refuses"):
        models[1].generate(IDS, generation_config=config)


@pytest.mark.parametrize("side", ["argument", "pad tokens"])
def test_padding_on_the_right_is_the_source_models(models, side):
    """Where a text ends in padding, what follows has the positions that transformers gives it."""
    mask = torch.ones_like(IDS)
    mask[1, -2:] = 0
    _set(models[0], pad_token_id=0)
    padded, given = IDS.clamp_min(1) * mask, {"attention_mask": mask} if side == "argument" else {}
    found = [model.generate(padded, max_new_tokens=12, do_sample=False, **given) for model in models]
    assert torch.equal(*found)


def test_a_config_by_its_place(models):
    config = GenerationConfig(max_new_tokens=5, do_sample=False)
    found = [model.generate(IDS, config) for model in models]
    assert torch.equal(*found) and found[1].shape[1] == 11


def test_a_top_k_that_is_no_count():
    made = object.__new__(Sampling)  # no checker of types stands before it outside the tests
    for name, value in {"do_sample": True, "temperature": 1.0, "top_k": 5.0, "top_p": 1.0}.items():
        object.__setattr__(made, name, value)
    with pytest.raises(EngineError, match=r"top_k=5\.0 is no whole number"):
        made.__post_init__()
