"""The methods that replace linear layers, on a GPT-2, whose Conv1D stores its weight as (in, out)."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rarefy
from rarefy.allocations.given import Given
from rarefy.core.errors import ModelError, SparsityError
from rarefy.training.bitwise_training import bitwise_training, freeze_bits, layers_of
from rarefy.training.linears import restore
from rarefy.training.sltrain import LowRankSparseLinear, merge_sltrain, sltrain
from rarefy.training.sparse_ift import products, sparse_ift
from rarefy.training.spectral import SpectralLinear
from rarefy.training.sst import merge_sst, sst

transformers = pytest.importorskip("transformers")
IDS = torch.randint(0, 48, (4, 9), generator=torch.Generator().manual_seed(0))
HEAD = ["lm_head"]


def gpt2(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 48, "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 16}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **dropout))


def begun(method: str, seed: int = 0) -> tuple[Any, torch.optim.Optimizer, Any]:
    """The model, the optimizer of what it trains now, and the trainer of methods that have one."""
    model: Any = gpt2(seed)
    if method == "sltrain":
        sltrain(model, rank=3, sparsity=0.9, ignore=HEAD, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    if method == "sst":
        return model, optimizer, sst(model, optimizer, rank=3, every=2, turns=2, ignore=HEAD, seed=seed)
    if method == "bitwise-training":
        bitwise_training(model, optimizer, bits=6, trained=4, ignore=HEAD, seed=seed)
    if method.startswith("sparse-ift"):
        found = sparse_ift(model, method.partition(":")[2], sparsity=0.75, ignore=HEAD)
        optimizer = torch.optim.AdamW(found.model.parameters(), lr=1e-2)
        spread = Given(found.densities)
        more: dict[str, Any] = {"allocation": spread, "total_steps": 20, "every": 3, "ignore": HEAD, "sparsity": 0.75}
        return found.model, optimizer, rarefy.sparse_training(found.model, optimizer, "rigl", **more)
    return model, optimizer, None


def steps(model: Any, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


METHODS = ["sltrain", "sst", "bitwise-training", "sparse-ift:parallel", "sparse-ift:factorized", "sparse-ift:doped"]


@pytest.mark.parametrize("method", METHODS)
def test_a_gpt2_trains_and_goes_on_from_what_was_saved(method: str) -> None:
    whole, optimizer, _ = begun(method)
    expected = steps(whole, optimizer, 9)
    assert sum(expected[-3:]) < sum(expected[:3])
    assert not any(type(module).__name__ == "Conv1D" for module in whole.modules())
    half, optimizer, trainer = begun(method)
    found = steps(half, optimizer, 5)
    stream = io.BytesIO()
    states = [half.state_dict(), optimizer.state_dict(), None if trainer is None else trainer.state_dict()]
    torch.save(states, stream)
    stream.seek(0)
    saved = torch.load(stream, weights_only=True)
    again, optimizer, trainer = begun(method, seed=7)
    again.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    if trainer is not None:
        trainer.load_state_dict(saved[2])
    assert torch.equal(logits(again), logits(half))
    assert found + steps(again, optimizer, 4) == expected
    assert again.lm_head.weight is again.transformer.wte.weight


@pytest.mark.parametrize(
    ("method", "back"), [("sltrain", merge_sltrain), ("sst", merge_sst), ("bitwise-training", freeze_bits)]
)
def test_what_was_trained_becomes_an_ordinary_gpt2_again(method: str, back: Any, tmp_path: Path) -> None:
    model, optimizer, _ = begun(method)
    steps(model, optimizer, 5)
    wanted = logits(model)
    names = back(model)
    plain = gpt2().state_dict()
    assert len(names) == 8 and {n: t.shape for n, t in model.state_dict().items()} == {
        n: t.shape for n, t in plain.items()
    }
    assert torch.allclose(logits(model), wanted, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded.eval()), logits(model.eval()))


def test_bits_have_the_standard_deviation_of_he_by_the_inputs_of_a_conv1d() -> None:
    model, _, _ = begun("bitwise-training")
    layer, _ = layers_of(model)["transformer.h.0.mlp.c_fc"]  # 24 inputs, 96 outputs
    assert layer.weight.shape == (24, 96)
    assert float(layer.weight.detach().std()) == pytest.approx((2 / 24) ** 0.5, rel=1e-4)


def test_singular_vectors_begin_with_the_function_of_the_conv1d() -> None:
    model, _, _ = begun("sst")
    assert torch.allclose(logits(model), logits(gpt2()), atol=1e-5)


@pytest.mark.parametrize("kind", ["parallel", "factorized", "doped"])
def test_a_larger_gpt2_costs_as_many_products(kind: str) -> None:
    found = sparse_ift(gpt2(), kind, sparsity=0.75, ignore=HEAD)
    assert abs(found.products / products(gpt2()) - 1) < 0.02
    assert products(found.model) > 1.3 * products(gpt2())


def call(method: str, model: nn.Module, ignore: list[str]) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if method == "sltrain":
        return sltrain(model, rank=2, ignore=ignore)
    if method == "sst":
        return sst(model, optimizer, rank=2, ignore=ignore)
    if method == "bitwise-training":
        return bitwise_training(model, optimizer, ignore=ignore)
    return sparse_ift(model, "doped", sparsity=0.5, ignore=ignore)


@pytest.mark.parametrize("method", ["sltrain", "sst", "bitwise-training", "sparse-ift"])
def test_a_head_that_is_tied_to_the_embedding_is_refused_with_what_to_do(method: str) -> None:
    model = gpt2()
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(
        ModelError, match=r"lm_head shares its parameters \(transformer\.wte\.weight, lm_head\.weight\).*ignore=\['lm_h"
    ):
        call(method, model, [])
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert model.lm_head.weight is model.transformer.wte.weight
    with pytest.raises(ModelError, match=r"(no linear layer to replace: all 9|no prunable layer: all 9)"):
        call(method, model, [*HEAD, "transformer"])


def test_numbers_that_make_no_sense_are_refused_before_anything_is_changed() -> None:
    model = gpt2()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for rank in (0, True):
        with pytest.raises(SparsityError, match="rank"):
            sltrain(model, rank=rank, ignore=HEAD)
        with pytest.raises(SparsityError, match="rank"):
            sst(model, optimizer, rank=rank, ignore=HEAD)
    with pytest.raises(SparsityError, match=r"rank 25 for transformer\.h\.0\.attn\.c_attn.*\(72, 24\); give 1 to 24"):
        sltrain(model, rank=25, ignore=HEAD)
    with pytest.raises(SparsityError, match="alpha"):
        sltrain(model, rank=2, alpha=float("nan"), ignore=HEAD)
    with pytest.raises(ModelError, match=r"ignore=\['lm_head'\] with 'wide'"):
        sparse_ift(model, sparsity=0.5, ignore=HEAD)
    assert restore(model, LowRankSparseLinear, lambda layer: layer) == restore(model, SpectralLinear, nn.Identity) == []
