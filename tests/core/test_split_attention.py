"""Attention of torch with layers of its own: the same function, prunable with data, and the way back."""

import copy

import pytest
import torch
from torch import nn

import rarefy
from rarefy.core.errors import DataError, ModelError
from rarefy.core.split_attention import SplitAttention, packed_projections

KINDS = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "other widths": {"kdim": 12, "vdim": 20},
    "extra places": {"add_bias_kv": True, "add_zero_attn": True},
    "all": {"batch_first": True, "kdim": 12, "vdim": 20, "add_bias_kv": True, "add_zero_attn": True},
}


def _attention(kind, seed=0):
    torch.manual_seed(seed)
    made = nn.MultiheadAttention(16, 4, **KINDS[kind]).eval()
    for p in made.parameters():  # biases begin as zeros
        nn.init.normal_(p, std=0.3)
    return made


def _inputs(made, queries=5, keys=7, batch=3):
    shapes = [(queries, 16), (keys, made.kdim), (keys, made.vdim)]
    found = [torch.randn(batch, n, width, generator=torch.Generator().manual_seed(n)) for n, width in shapes]
    return found if made.batch_first else [t.transpose(0, 1) for t in found]


MASKS = {
    "none": {},
    "causal": {"attn_mask": torch.ones(5, 7).triu(1).bool()},
    "added": {"attn_mask": torch.linspace(-3, 3, 35).view(5, 7)},
    "by head": {"attn_mask": torch.arange(12 * 35).view(12, 5, 7).remainder(5) == 0},
    "padding": {"key_padding_mask": torch.arange(7)[None] >= torch.tensor([[7], [4], [2]])},
    "both": {
        "attn_mask": torch.ones(5, 7).triu(2).bool(),
        "key_padding_mask": torch.arange(7)[None] >= torch.tensor([[7], [4], [2]]),
    },
}


@pytest.mark.parametrize("weights", [{"need_weights": False}, {}, {"average_attn_weights": False}], ids=str)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_weights_are_those_of_torch(kind, mask, weights):
    made = _attention(kind)
    given, options = _inputs(made), MASKS[mask] | weights
    wanted, found = made(*given, **options), SplitAttention(made)(*given, **options)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    assert (found[1] is None) == (wanted[1] is None)
    if wanted[1] is not None:
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-5)


def test_one_text_without_a_batch():
    made = _attention("batch first")
    given = [t[0] for t in _inputs(made)]
    mask = torch.arange(7) >= 4
    wanted, found = made(*given, key_padding_mask=mask), SplitAttention(made)(*given, key_padding_mask=mask)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_joined_again_every_parameter_is_the_same(kind):
    holder = nn.Sequential(_attention(kind))
    before = copy.deepcopy(holder.state_dict())
    holder[0].out_proj.requires_grad_(False)
    assert rarefy.split_attention(holder) == ("0",)
    assert rarefy.join_attention(holder) == ("0",)
    after = holder.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[n], before[n]) for n in before)
    assert not holder[0].out_proj.weight.requires_grad and not holder[0].training
    given = _inputs(holder[0])
    assert torch.equal(holder[0](*given)[0], _attention(kind)(*given)[0])


def _encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.1)
    return nn.TransformerEncoder(layer, 2).eval()


def test_an_encoder_computes_the_same_padding_apart():
    model, x = _encoder(), torch.randn(3, 6, 32)
    padding = torch.arange(6)[None] >= torch.tensor([[6], [4], [3]])
    with torch.no_grad():
        wanted, padded = model(x), model(x, src_key_padding_mask=padding)
        assert rarefy.split_attention(model) == ("layers.0.self_attn", "layers.1.self_attn")
        torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-5)
        found = model(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], padded[~padding], rtol=1e-4, atol=1e-5)


def test_what_data_could_not_reach_is_pruned_by_them():
    batches = [torch.randn(8, 6, 32, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    with pytest.raises(DataError, match=r"split_attention"):
        rarefy.prune(_encoder(), "wanda", sparsity=0.5, data=batches, measure=False)
    plain = rarefy.prune(_encoder(), "magnitude", sparsity=0.5, measure=False)
    assert "split_attention" in plain.skipped["layers.1.self_attn.in_proj_weight"]
    model = _encoder()
    rarefy.split_attention(model)
    report = rarefy.prune(model, "sparsegpt", sparsity=0.5, data=batches, measure=False)
    assert len(report.sites) == 12 and not report.skipped
    assert all(site.error < 0.5 for site in report.sites)
    with torch.no_grad():
        wanted = model(batches[0])
        fast = rarefy.compile(model, batches[0], measure=False)
        torch.testing.assert_close(fast(batches[0]), wanted, rtol=1e-3, atol=1e-4)
        rarefy.join_attention(model)
        torch.testing.assert_close(model(batches[0]), wanted, rtol=1e-4, atol=1e-5)
    share = (model.layers[0].self_attn.in_proj_weight == 0).float().mean()
    assert abs(float(share) - 0.5) < 0.01


def test_gradients_and_dropout_are_those_of_training():
    made = _attention("batch first").train()
    made.dropout = 0.5
    split = SplitAttention(made)
    given = _inputs(made)
    assert split.training and not torch.equal(split(*given)[0], split(*given)[0])
    split.dropout = made.dropout = 0.0
    for module in (made, split):
        module(*given)[0].square().sum().backward()
    torch.testing.assert_close(split.k_proj.weight.grad, made.in_proj_weight.grad[16:32], rtol=1e-3, atol=1e-4)


def test_a_module_under_two_names_stays_one():
    made = _attention("plain")
    holder = nn.ModuleDict({"a": made, "b": made, "c": nn.Linear(2, 2)})
    assert packed_projections(holder) == ["a.in_proj_weight"]
    assert rarefy.split_attention(holder) == ("a", "b")
    assert holder["a"] is holder["b"] and isinstance(holder["a"], SplitAttention)
    assert rarefy.split_attention(holder) == () and packed_projections(holder) == []


def test_mistakes_are_named():
    with pytest.raises(ModelError, match="itself"):
        rarefy.split_attention(_attention("plain"))
    holder = nn.Sequential(_attention("plain"))
    rarefy.split_attention(holder)
    with pytest.raises(ModelError, match="is_causal"):
        holder[0](*_inputs(holder[0]), is_causal=True)
    holder[0].v_proj = nn.Identity()
    with pytest.raises(ModelError, match="v_proj is a Identity"):
        rarefy.join_attention(holder)
