"""Sirius: exact where it is asked to be, silent where nothing is sparse, and a cache that is the dense model's."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activations.tiny import llama, next_loss, opt, text
from contracts.impostor import assert_beats_impostor
from rarefy.activations.hidden import activation_of
from rarefy.activations.prompt_neurons import select_by_prompt
from rarefy.activations.sirius import Corrected, Sirius
from rarefy.core.errors import DataError, ModelError, SparsityError
from rarefy.selectors import TopK, detach, feed_forwards, projections, select_hidden, select_inputs
from rarefy.selectors.attach import paused

TABLE = torch.randint(0, 8, (8, 8), generator=torch.Generator().manual_seed(7))


def pairs(rows: int, length: int, seed: int) -> Tensor:
    """Each symbol is what a table says of the two before it, nine times of ten. (rows, length)"""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 8, (rows, length), generator=generator)
    for t in range(2, length):
        kept = torch.rand(rows, generator=generator) < 0.9
        ids[:, t] = torch.where(kept, TABLE[ids[:, t - 1], ids[:, t - 2]], ids[:, t])
    return ids


def right(tokens: Tensor) -> float:
    """Share of the new symbols that the table says."""
    new = tokens[0, PROMPT.shape[1] - 2 :]
    return float((new[2:] == TABLE[new[1:-1], new[:-2]]).float().mean())


PROMPT = pairs(1, 8, seed=1005)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.set_num_threads(1)
    made = llama("relu")
    adam = torch.optim.Adam(made.parameters(), lr=1e-2)
    for step in range(300):
        for group in adam.param_groups:
            group["lr"] = 1e-2 * (1 - step / 300)
        loss = next_loss(made, pairs(16, 24, step))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return made.eval()


def sparse(model: nn.Module, k: int) -> None:
    detach(model)
    for layer in feed_forwards(model):
        select_hidden(activation_of(layer), TopK(k))
    for place in projections(model):
        if place.part in ("q", "k", "v", "gate"):
            select_inputs(place.module, TopK(k // 2))


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
    assert_dense_cache(model, Sirius(5, least=0.3).generate(model, PROMPT, 20))
    sparse(model, 64)  # nothing falls, so the last check gives one token more than asked
    assert_dense_cache(model, Sirius(5, exact=True).generate(model, PROMPT, 11))


def assert_dense_cache(model: nn.Module, found: Corrected) -> None:
    with torch.inference_mode(), paused(model):
        whole = model(input_ids=found.tokens, use_cache=True).past_key_values
    kept = found.tokens.shape[1] - 1
    assert found.cache.get_seq_length() == kept
    for mine, theirs in zip(held(found.cache), held(whole), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert torch.allclose(one, other[..., :kept, :], atol=1e-5)


def held(cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Keys and values by layer, whatever the release of transformers."""
    layers = getattr(cache, "layers", None)
    return [(c.keys, c.values) for c in layers] if layers is not None else list(cache)


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


def test_correction_brings_most_of_the_lost_quality_back_at_a_good_advance(model: nn.Module) -> None:
    sparse(model, 12)
    whole, alone = right(dense(model, 50)), right(greedy(model, 50))

    def check(kind: str) -> None:
        if kind == "corrected":
            found = Sirius(8).generate(model, PROMPT, 50)
            assert found.advance > 2.0 and found.rollbacks > 0
            tokens = found.tokens
        else:
            tokens = greedy(model, 50)
        assert right(tokens) > alone + 0.5 * (whole - alone)

    assert whole > alone + 0.3
    assert_beats_impostor(check, "corrected", "sparse alone")


def test_neurons_by_the_prompt_are_fixed_and_as_many_as_asked() -> None:
    model = llama().eval()
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
    with torch.inference_mode(), paused(made):
        if not hasattr(made(input_ids=PROMPT, use_cache=True).past_key_values, "crop"):
            pytest.skip("this release of transformers gives OPT a cache that cannot be cut")
    free = Sirius(4, exact=True).generate(made, PROMPT, 12).tokens[0, 8:].tolist()
    end = free[5]
    found = Sirius(4, exact=True).generate(made, PROMPT, 12, end=end)
    assert found.tokens[0, 8:].tolist() == free[: free.index(end) + 1]


def test_a_cache_that_cannot_be_cut_is_refused(model: nn.Module) -> None:
    sparse(model, 6)
    forward = model.forward

    def older(**given: Any) -> Any:
        out = forward(**given)
        out.past_key_values = tuple(held(out.past_key_values))
        return out

    model.forward = older  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="keeps keys and values in a tuple, from which tokens cannot be taken back"):
        Sirius().generate(model, PROMPT, 4)


def test_windows_of_attention_are_served_far_beyond_their_width() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    made = MistralForCausalLM(MistralConfig(vocab_size=32, sliding_window=6, num_key_value_heads=2, **sizes)).eval()
    wanted = dense(made, 30)
    sparse(made, 8)
    found = Sirius(4, exact=True).generate(made, PROMPT, 30)
    assert torch.equal(found.tokens, wanted) and found.rollbacks > 0


def test_a_model_without_a_cache_is_refused() -> None:
    from transformers_tiny import tiny

    made = tiny("Bert")
    sparse(made, 8)
    with pytest.raises(ModelError, match="BertModel gives no past_key_values; give a decoder"):
        Sirius().generate(made, PROMPT, 4)


@pytest.mark.parametrize("said", [{"record_past": False}, {"is_sliding": True}])
def test_a_cache_that_forgets_is_refused_before_the_first_draft(said: dict[str, bool]) -> None:
    made = opt().eval()
    sparse(made, 8)
    forward = made.forward
    layer = type("Forgets", (), said)()
    cache = type("Windowed", (), {"layers": [layer], "crop": None})()

    def windowed(**given: Any) -> Any:
        out = forward(**given)
        out.past_key_values = cache
        return out

    made.forward = windowed  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="keeps keys and values in a Forgets, from which tokens cannot be taken back"):
        Sirius().generate(made, PROMPT, 4)


def test_what_cannot_be_is_said(model: nn.Module) -> None:
    detach(model)
    with pytest.raises(ModelError, match="no selectors"):
        Sirius().generate(model, PROMPT, 4)
    sparse(model, 4)
    with pytest.raises(DataError, match="one sequence"):
        Sirius().generate(model, text(2, 8), 4)
    with pytest.raises(DataError, match="count=0"):
        Sirius().generate(model, PROMPT, 0)
    with pytest.raises(SparsityError, match="period"):
        Sirius(0)
