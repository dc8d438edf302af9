"""Sirius: exact where it is asked to be, silent where nothing is sparse, and a cache that is the dense model's."""

import pytest
import torch
from torch import Tensor, nn

from activations.tiny import llama, opt, text, train
from contracts.impostor import assert_beats_impostor
from rarefy.activations.hidden import activation_of
from rarefy.activations.prompt_neurons import select_by_prompt
from rarefy.activations.sirius import Corrected, Sirius
from rarefy.core.errors import DataError, ModelError, SparsityError
from rarefy.selectors import TopK, detach, feed_forwards, select_hidden
from rarefy.selectors.attach import paused


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.set_num_threads(1)
    made = llama()
    train(made, 60)
    with torch.no_grad():  # a model whose neurons matter more, so that leaving them out changes its text
        for layer in feed_forwards(made):
            layer.down.weight.mul_(3.0)
    return made.eval()


def sparse(model: nn.Module, k: int) -> None:
    detach(model)
    for layer in feed_forwards(model):
        select_hidden(activation_of(layer), TopK(k))


PROMPT = text(1, 8, seed=5)


@torch.inference_mode()
def greedy(model: nn.Module, count: int) -> Tensor:
    ids = PROMPT
    for _ in range(count):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    return ids


def dense(model: nn.Module, count: int) -> Tensor:
    with paused(model):
        return greedy(model, count)


@pytest.mark.parametrize("period", [1, 3, 16])
def test_accepting_only_the_best_is_dense_greedy(model: nn.Module, period: int) -> None:
    sparse(model, 4)
    wanted = dense(model, 30)

    def check(kind: str) -> None:
        if kind == "corrected":
            found = Sirius(period, exact=True).generate(model, PROMPT, 30)
            assert found.tokens.shape == (1, 38) and found.new == 30
            assert found.rollbacks > 0
            assert torch.equal(found.tokens, wanted)
        else:
            assert torch.equal(greedy(model, 30), wanted)

    assert_beats_impostor(check, "corrected", "sparse alone")


def test_a_dense_selection_is_never_rolled_back(model: nn.Module) -> None:
    sparse(model, 64)
    for exact in (True, False):
        found = Sirius(8, exact=exact, least=0.01).generate(model, PROMPT, 27)
        assert found.rollbacks == 0 and found.checks == 3 and found.drafted == 24
        assert torch.equal(found.tokens, dense(model, 27))
        assert found.advance == pytest.approx(9.0)


def test_the_cache_is_the_dense_models(model: nn.Module) -> None:
    sparse(model, 6)
    found = Sirius(5, least=0.3).generate(model, PROMPT, 20)
    with torch.inference_mode(), paused(model):
        whole = model(input_ids=found.tokens, use_cache=True).past_key_values
    length = found.cache.get_seq_length()
    assert length >= found.tokens.shape[1] - 1
    kept = min(length, found.tokens.shape[1])
    for mine, theirs in zip(found.cache.layers, whole.layers, strict=True):
        assert torch.allclose(mine.keys[..., :kept, :], theirs.keys[..., :kept, :], atol=1e-5)
        assert torch.allclose(mine.values[..., :kept, :], theirs.values[..., :kept, :], atol=1e-5)


def test_the_effective_density_is_what_was_counted(model: nn.Module) -> None:
    sparse(model, 8)
    drafts, checks = [0], [0]
    handle = model.register_forward_pre_hook(
        lambda m, a, k: (checks if k["input_ids"].shape[1] > 1 else drafts).__setitem__(
            0, (checks if k["input_ids"].shape[1] > 1 else drafts)[0] + 1
        ),
        with_kwargs=True,
    )
    found = Sirius(6, exact=True).generate(model, PROMPT, 25)
    handle.remove()
    assert (found.drafted, found.checks) == (drafts[0], checks[0] - 1)  # the prompt is a dense pass too
    assert found.effective_density(0.5) == pytest.approx((0.5 * drafts[0] + checks[0] - 1) / 25)
    none = Corrected(PROMPT, None, 32, 32, 2, 0)
    assert none.effective_density(0.4) == pytest.approx(0.4 + 1 / none.advance)


def test_correction_brings_the_text_nearer_to_the_dense_models_and_softer_rules_check_less(model: nn.Module) -> None:
    sparse(model, 4)
    wanted = dense(model, 40)
    hard, soft = (Sirius(8, least=least).generate(model, PROMPT, 40) for least in (0.5, 0.02))
    assert hard.rollbacks >= soft.rollbacks and hard.advance <= soft.advance

    def right(tokens: Tensor) -> float:
        follow = tokens[:, PROMPT.shape[1] - 1 :]
        return float((follow[:, 1:] == (follow[:, :-1] + 1) % 32).float().mean())  # the rule of the text

    assert right(hard.tokens) > right(greedy(model, 40)) + 0.1
    assert right(hard.tokens) >= right(wanted) - 0.1


def test_neurons_by_the_prompt_are_fixed_and_as_many_as_asked(model: nn.Module) -> None:
    detach(model)
    handles = select_by_prompt(model, [{"input_ids": PROMPT}], sparsity=0.75)
    seen: list[Tensor] = []
    hook = feed_forwards(model)[0].down.register_forward_pre_hook(lambda m, a: seen.append(a[0] != 0))
    found = Sirius(4, exact=True).generate(model, PROMPT, 12)
    hook.remove()
    sparse_ones = [mask for mask in seen if mask.shape[1] == 1]
    assert sparse_ones and all(torch.equal(mask, sparse_ones[0]) for mask in sparse_ones)
    assert int(sparse_ones[0].sum()) == 16
    assert torch.equal(found.tokens, dense(model, 12))
    for handle in handles:
        handle.remove()


def test_it_stops_at_the_end_token_and_serves_other_classes() -> None:
    made = opt().eval()
    sparse(made, 64)
    free = Sirius(4, exact=True).generate(made, PROMPT, 12).tokens[0, 8:].tolist()
    end = free[5]
    found = Sirius(4, exact=True).generate(made, PROMPT, 12, end=end)
    assert found.tokens[0, 8:].tolist() == free[: free.index(end) + 1]


def test_what_cannot_be_is_said(model: nn.Module) -> None:
    detach(model)
    with pytest.raises(ModelError, match="no selectors"):
        Sirius().generate(model, PROMPT, 4)
    sparse(model, 4)
    with pytest.raises(DataError, match="one sequence"):
        Sirius().generate(model, text(2, 8), 4)
    with pytest.raises(SparsityError, match="period"):
        Sirius(0)
