"""Linearity of blocks: exact for planted ones, told apart on a trained model by what replacing a block costs."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.analysis.secretly_linear import best_map, linearity, replace_block, secretly_linear, similarity_penalty
from rarefy.core.errors import DataError, ModelError
from rarefy.recipes.evaluations.language import next_token_loss
from transformers_tiny import ids, tiny

DATA = Path(__file__).parents[3] / "shared" / "data"
MODEL = DATA / "weights" / "llama-4m-bytes"


class Residual(nn.Module):
    def __init__(self, width: int, bent: bool) -> None:
        super().__init__()
        self.one, self.two, self.bent = nn.Linear(width, width), nn.Linear(width, width), bent

    def forward(self, x: Tensor) -> Tensor:
        inner = self.one(x)
        y: Tensor = x + 3 * self.two(inner.relu() if self.bent else inner)
        return y


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 24)
        self.blocks = nn.ModuleList([Residual(24, bent) for bent in (False, True, False)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def chain() -> Chain:
    torch.manual_seed(0)
    return Chain()


def test_a_linear_block_scores_one_and_a_bent_one_less() -> None:
    found = secretly_linear(chain(), [torch.randn(200, 12), torch.randn(200, 12)])
    scores = [found[f"blocks.{i}"] for i in range(3)]

    def check(which: int) -> None:
        assert scores[which].whole == pytest.approx(1.0, abs=1e-6)
        assert scores[which].own == pytest.approx(1.0, abs=1e-6)

    assert_beats_impostor(check, 0, 1)
    assert scores[1].own < scores[1].whole < 0.99


def test_scale_shift_and_rotation_change_nothing() -> None:
    x = torch.randn(300, 16)
    y = torch.relu(x @ torch.randn(16, 16)) + 0.1 * x
    turn = torch.linalg.qr(torch.randn(16, 16)).Q
    score = linearity(x, y)
    assert 0.1 < score < 0.95
    assert linearity(7 * x @ turn + 3, 0.2 * y @ turn.T - 1) == pytest.approx(score, abs=1e-6)
    weight, bias = best_map(x, 2 * x @ turn + 5)
    assert torch.allclose(weight, 2 * turn.double(), atol=1e-5) and torch.allclose(
        bias, torch.tensor(5.0).double(), atol=1e-5
    )


def test_a_block_that_is_linear_is_replaced_without_loss_and_left_out_with_loss() -> None:
    model, data = chain(), [torch.randn(200, 12)]
    found, wanted = secretly_linear(model, data), model(data[0])
    kept, out = copy.deepcopy(model), copy.deepcopy(model)
    replace_block(kept, "blocks.2", found["blocks.2"], data)
    replace_block(out, "blocks.2", None, data)
    assert torch.allclose(kept(data[0]), wanted, atol=1e-4)
    assert torch.allclose(out(data[0]), model.blocks[1](model.blocks[0](model.first(data[0]))), atol=1e-5)
    with pytest.raises(ModelError, match="no block"):
        replace_block(model, "first", found["blocks.2"], data)


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3", "Mistral", "OPT", "GPT2"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_cache_counts_the_tokens_that_a_replaced_block_saw(kind: str, place: int) -> None:
    model, data = tiny(kind), [ids(8, 16)]
    found = secretly_linear(model, data)
    name = list(found)[place]
    for fit in (found[name], None, found[name]):  # the last in the place of the one before
        replace_block(model, name, fit, data)
        with torch.no_grad():
            wanted = model(input_ids=data[0], use_cache=False).logits[:, -4:]
            cache = model(input_ids=data[0][:, :-4], use_cache=True).past_key_values
            got = model(input_ids=data[0][:, -4:], past_key_values=cache, use_cache=True).logits
        torch.testing.assert_close(got, wanted)


def test_a_model_with_a_replaced_block_is_saved_as_weights_and_refused_as_a_folder(tmp_path: Path) -> None:
    model, data = tiny("Llama"), [ids(8, 16)]
    other, name = copy.deepcopy(model), "model.layers.1"
    fit = secretly_linear(model, data)[name]
    for each in (model, other):
        replace_block(each, name, fit, data)
    with pytest.raises(ModelError, match=r"layers\.1 is a linear map in the place of a block"):
        rarefy.save(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    rarefy.save(model, tmp_path / "weights.safetensors")
    other.get_submodule(name).weight.data.zero_()
    rarefy.load(tmp_path / "weights.safetensors", model=other)
    with torch.no_grad():
        assert torch.equal(other(data[0]).logits, model(data[0]).logits)


def test_too_few_tokens_and_no_chain_are_said() -> None:
    with pytest.raises(DataError, match="more than 48 tokens"):
        secretly_linear(chain(), [torch.randn(40, 12)])
    with pytest.raises(ModelError, match="no chain"):
        secretly_linear(nn.Linear(4, 4), [torch.randn(40, 4)])


def test_the_penalty_is_zero_for_equal_directions_and_moves_gradients() -> None:
    a = torch.randn(2, 3, 8, requires_grad=True)
    assert similarity_penalty([a, 2 * a, 3 * a]).item() == pytest.approx(0.0, abs=1e-6)
    assert similarity_penalty([a, -a]).item() == pytest.approx(2.0, abs=1e-6)
    similarity_penalty([a, torch.randn(2, 3, 8)]).backward()
    assert float(a.grad.norm()) > 0
    with pytest.raises(DataError, match="before and after"):
        similarity_penalty([a])
    mask, b = torch.tensor([[1, 1, 0], [1, 0, 0]]), torch.randn(2, 3, 8)
    assert similarity_penalty([a, b], mask) == similarity_penalty([a, b], mask.bool())
    assert similarity_penalty([a, b], mask) != similarity_penalty([a, b])
    with pytest.raises(DataError, match="one mark a token"):
        similarity_penalty([a, b], mask[:1])


@pytest.mark.skipif(not MODEL.is_dir(), reason="the shared data folder is not beside this checkout")
def test_the_most_linear_block_of_a_trained_model_is_the_cheapest_to_replace() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(MODEL).eval()
    lines = [json.loads(line) for line in (DATA / "scifact" / "corpus.jsonl").read_text("utf-8").splitlines()[:80]]
    raw = bytearray("\n".join(row["text"] for row in lines).encode())
    cut = torch.frombuffer(raw[: 48 * 128], dtype=torch.uint8).long().view(48, 128)
    seen, unseen = {"input_ids": cut[:32]}, {"input_ids": cut[32:40]}
    found = secretly_linear(model, [seen])
    assert all(one.own < one.whole for one in found.values())
    order = sorted(found, key=lambda name: found[name].whole)

    def loss(name: str, remove: bool = False) -> float:
        other = copy.deepcopy(model)
        replace_block(other, name, None if remove else found[name], [seen])
        with torch.no_grad():
            return next_token_loss(other, unseen).item()

    most, least = loss(order[-1]), loss(order[0])
    assert most < least
    assert most < loss(order[-1], remove=True)
