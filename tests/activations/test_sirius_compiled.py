"""Sirius on compiled decoders: the text and the cache that it makes on their source."""

import pytest
import torch
from torch import Tensor, nn

import rarefy
from activations.test_sirius import PROMPT, dense, greedy, held, model, sparse
from contracts.impostor import assert_beats_impostor
from rarefy.activations.sirius import Corrected, Sirius
from rarefy.core.errors import ModelError
from rarefy.engine import CompiledDecoder
from rarefy.selectors import detach
from rarefy.selectors.attach import paused

__all__ = ["model"]  # the trained fixture


def compiled(model: nn.Module) -> CompiledDecoder:
    fast = rarefy.compile(model, {"input_ids": PROMPT}, measure=False)
    assert isinstance(fast, CompiledDecoder), fast.explain().notes
    return fast


@pytest.mark.parametrize("period", [1, 5, 16])
def test_accepting_only_the_best_is_dense_greedy(model: nn.Module, period: int) -> None:
    sparse(model, 4)
    wanted = dense(model, 30)
    fast = compiled(model)

    def check(kind: str) -> None:
        if kind == "corrected":
            found = Sirius(period, exact=True).generate(fast, PROMPT, 30)
            assert found.rollbacks > 0
            assert torch.equal(found.tokens, wanted)
        else:
            assert torch.equal(fast.generate(PROMPT, max_new_tokens=30, do_sample=False, eos_token_id=-1), wanted)

    assert_beats_impostor(check, "corrected", "sparse alone")


def test_it_is_what_the_source_gives(model: nn.Module) -> None:
    sparse(model, 12)
    fast = compiled(model)
    for rules in (Sirius(8), Sirius(6, least=0.4), Sirius(5, exact=True)):
        ours, theirs = (rules.generate(which, PROMPT, 40) for which in (fast, model))
        assert torch.equal(ours.tokens, theirs.tokens)
        assert counts(ours) == counts(theirs) and ours.rollbacks > 0


@pytest.mark.parametrize("how", ["source", "compiled"])
def test_its_tokens_take_part_in_a_gradient(model: nn.Module, how: str) -> None:
    sparse(model, 6)
    made = Sirius(4).generate(compiled(model) if how == "compiled" else model, PROMPT, 6)
    rows = nn.Embedding(1 + int(made.tokens.max()), 2)
    rows(made.tokens).sum().backward()
    assert rows.weight.grad is not None and rows.weight.grad.sum() == 2 * made.tokens.numel()


def counts(made: Corrected) -> tuple[int, int, int, int]:
    return made.new, made.drafted, made.checks, made.rollbacks


def test_the_cache_is_the_dense_models(model: nn.Module) -> None:
    sparse(model, 6)
    fast = compiled(model)

    def check(kind: str) -> None:
        if kind == "corrected":
            found = Sirius(5, least=0.3).generate(fast, PROMPT, 20)
            ids, cache = found.tokens, found.cache
        else:
            ids = greedy(model, 20)
            cache = fast.cache(1, ids.shape[1])
            fast(input_ids=ids[:, :-1], past_key_values=cache)
        assert cache.get_seq_length() == ids.shape[1] - 1
        for layer, (keys, values) in enumerate(of(model, ids)):
            ours = cache.read(layer, ids.shape[1] - 1)
            assert torch.allclose(ours[0], keys[:, :, :-1], atol=1e-5)
            assert torch.allclose(ours[1], values[:, :, :-1], atol=1e-5)

    assert_beats_impostor(check, "corrected", "sparse alone")


def of(model: nn.Module, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    with torch.inference_mode(), paused(model):
        return held(model(input_ids=ids, use_cache=True).past_key_values)


def test_a_dense_selection_is_never_rolled_back(model: nn.Module) -> None:
    sparse(model, 64)
    found = Sirius(8, exact=True).generate(compiled(model), PROMPT, 27)
    assert counts(found) == (27, 24, 3, 0)
    assert torch.equal(found.tokens, dense(model, 27))


def test_it_stops_at_the_end_token(model: nn.Module) -> None:
    sparse(model, 12)
    fast = compiled(model)
    free = Sirius(8).generate(fast, PROMPT, 30).tokens[0, 8:].tolist()
    end = free[11]
    found = Sirius(8).generate(fast, PROMPT, 30, end=end)
    assert found.tokens[0, 8:].tolist() == free[: free.index(end) + 1]


def test_a_compiled_model_without_selectors_is_refused(model: nn.Module) -> None:
    detach(model)
    with pytest.raises(ModelError, match="no selectors"):
        Sirius().generate(compiled(model), PROMPT, 4)
