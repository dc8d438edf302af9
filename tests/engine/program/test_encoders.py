"""Whole encoders as programs: what is native, and that outputs are the model's at sizes it was not traced at."""

import pytest
import torch

from engine.program.conftest import encoder, graphs, inputs, plans, tensors
from rarefy import ops
from rarefy.engine.program import outside
from rarefy.ops.attention import attention8

pytestmark = pytest.mark.skipif(not ops.available(), reason="the native module is not built")
OLDER = {  # transformers before 5: masks of floats are made in torch, and ViT's heads lie otherwise
    "bert": "1 native program(s) of 21 steps, 12 operations in torch (expand, masked_fill, rsub, slice, ",
    "bert classifier": "2 native program(s) of 22 steps, 12 operations in torch (expand, masked_fill, rsub, slice, ",
    "distilbert": "1 native program(s) of 19 steps, 11 operations in torch (expand, masked_fill, rsub, slice, ",
    "roberta": "1 native program(s) of 21 steps, 20 operations in torch (add, cumsum, expand, masked_fill, mul, ne, ",
    "vit": "1 native program(s) of 29 steps, 7 operations in torch (cat, conv2d, expand, flatten, ",
    "vit classifier": "1 native program(s) of 29 steps, 6 operations in torch (cat, conv2d, expand, flatten, ",
}
TOLERANCE = 2e-5  # of the largest output: two layers of float32
SHAPES = ((3, 10), (2, 33), (5, 7), (1, 4), (1, 1))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("bert", "1 native program(s) of 20 steps, 1 operations in torch (tanh)"),
        ("bert classifier", "2 native program(s) of 21 steps, 1 operations in torch (tanh)"),
        ("distilbert", "1 native program(s) of 18 steps, 0 operations in torch"),
        ("roberta", "1 native program(s) of 20 steps, 9 operations in torch (add, cumsum, mul, ne, tanh, to, type_as)"),
        ("vit", "1 native program(s) of 19 steps, 7 operations in torch (cat, conv2d, expand, flatten, "),
        ("vit classifier", "1 native program(s) of 19 steps, 6 operations in torch (cat, conv2d, expand, flatten, "),
    ],
)
def test_encoders(kind, said):
    model = encoder(kind)
    run, _ = graphs(model, inputs(kind, 3, 10), plans(model))
    older = pytest.importorskip("transformers").__version__.startswith("4.")
    assert outside(run).startswith(OLDER[kind] if older else said)
    for batch, tokens in SHAPES:
        for seed in range(2):
            call = inputs(kind, batch, tokens, seed)
            with torch.inference_mode():
                got, want = tensors(run(**call)), tensors(model(**call))
            assert len(got) == len(want) > 0
            for a, b in zip(got, want, strict=True):
                assert a.shape == b.shape
                assert (a - b).abs().max() <= TOLERANCE * b.abs().max()
                assert b.std() > 0.01  # outputs that would all look alike prove nothing


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("isa", ["scalar", "avx2", None])
@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_8_bit_rows_are_those_of_the_layers_one_by_one(kind, isa, known, monkeypatch):
    """The same integers in the same kernels: equal to the last bit (but for ViT, whose norms torch computes without the
    program). Without 8-bit inputs they differ: the check bites."""
    if isa is not None:
        monkeypatch.setenv("RAREFY_ISA", isa)
    model = encoder(kind)
    data = [inputs(kind, 4, 12, seed) for seed in range(3)] if known else None
    run, layers = graphs(model, inputs(kind, 3, 10), plans(model, "int8", data))
    for node in layers.graph.nodes:  # one by one, attention would be in float32
        node.target = attention8 if node.target is torch.ops.rarefy.attention.default else node.target
    layers.recompile()
    exact, _ = graphs(model, inputs(kind, 3, 10), plans(model))
    kinds = run.program_0.kinds
    assert kinds.count("linear8") == 13 and "linear" not in kinds
    # by the layer: attention's output, and of the activations those whose scale is not known; and the pooled row
    assert kinds.count("quantise") == (3 if known else 5)
    for batch, tokens in SHAPES:
        call = inputs(kind, batch, tokens)
        with torch.inference_mode():
            got, want, float32 = (tensors(g(**call)) for g in (run, layers, exact))
        for a, b, c in zip(got, want, float32, strict=True):
            assert torch.equal(a, b) if kind == "bert" else (a - b).abs().max() < 0.02 * b.abs().max()
            assert 0 < (a - c).abs().max() < 0.3 * c.abs().max()


def test_masks_of_truth_values_and_no_mask():
    model = encoder("distilbert")
    call = inputs("distilbert", 3, 10)
    for mask in (call["attention_mask"].bool(), None):
        example = {"input_ids": call["input_ids"]} | ({} if mask is None else {"attention_mask": mask})
        run, _ = graphs(model, example, plans(model))
        with torch.inference_mode():
            (got,), (want,) = tensors(run(**example)), tensors(model(**example))
        assert (got - want).abs().max() <= TOLERANCE * want.abs().max()


def test_token_types_that_are_given():
    model = encoder("bert")

    def call(batch, tokens):
        made = inputs("bert", batch, tokens)
        types = (torch.arange(tokens) > tokens // 2).long().expand(batch, -1).contiguous()
        return {**made, "token_type_ids": types}

    run, _ = graphs(model, call(3, 10), plans(model))
    with torch.inference_mode():
        for batch, tokens in SHAPES:
            got, want = tensors(run(**call(batch, tokens))), tensors(model(**call(batch, tokens)))
            for a, b in zip(got, want, strict=True):
                assert (a - b).abs().max() <= TOLERANCE * b.abs().max()
        plain = tensors(model(**inputs("bert", 3, 10)))[0]
        assert (plain - tensors(run(**call(3, 10)))[0]).abs().max() > 0.01  # the types are read


def test_more_positions_than_the_model_has():
    """BERT has 64 here: the source model raises, and so does the program, instead of reading beyond the table."""
    model = encoder("bert")
    run, _ = graphs(model, inputs("bert", 3, 10), plans(model))
    with pytest.raises((AssertionError, IndexError, RuntimeError)):
        run(**inputs("bert", 1, 65))


def test_ids_outside_the_vocabulary():
    model = encoder("distilbert")
    run, _ = graphs(model, inputs("distilbert", 3, 10), plans(model))
    call = inputs("distilbert", 2, 5)
    for wrong in (99, -1):
        call["input_ids"][1, 3] = wrong
        with pytest.raises(IndexError, match=f"index {wrong} is outside a table of 99 rows"):
            run(**call)
