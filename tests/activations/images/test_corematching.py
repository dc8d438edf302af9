"""Image tokens and neurons dropped after a prompt: exact for what is kept, and needles are kept."""

from typing import Any

import pytest
import torch
from torch import nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.activations.images.core_neurons import above_the_knee, core_tokens, narrowed, sentence_core, token_core
from rarefy.activations.images.corematching import CoreMatching, ReadPrompt
from rarefy.activations.images.cut_tokens import new_cache
from rarefy.core.errors import DataError, ModelError, SparsityError, UnknownNameError
from rarefy.selectors import feed_forwards
from rarefy.selectors.matrix import weight_of
from transformers_tiny import tiny

try:
    from transformers import DynamicCache

    _trims = hasattr(DynamicCache(), "layers")
except ImportError:
    _trims = False
cached = pytest.mark.skipif(not _trims, reason="this release of transformers keeps its cache in another form")

KINDS = ("Llama", "Qwen3", "Mistral", "OPT", "GPT2")


def prompt(tokens: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, of which 16 from the fifth on are an image's."""
    ids = torch.randint(3, 50, (1, tokens), generator=torch.Generator().manual_seed(seed))
    image = torch.zeros(tokens, dtype=torch.bool)
    image[4:20] = True
    return ids, image


def test_the_core_of_a_token_is_a_share_of_its_positive_activations() -> None:
    hidden = torch.tensor([[3.0, -9.0, 1.0, 2.0, 0.0], [-1.0, -2.0, 5.0, -3.0, 0.0]])
    assert token_core(hidden, 0.4).int().tolist() == [[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]]
    assert token_core(hidden, 1.0).int().tolist() == [[1, 0, 1, 1, 0], [0, 0, 1, 0, 0]]
    assert sentence_core(token_core(hidden, 1.0), 0.4).int().tolist() == [1, 0, 1, 0, 0]
    ties = torch.ones(3, 50)
    assert token_core(ties, 0.1).sum(1).eq(5).all() and token_core(ties, 0.1)[:, :5].all()


def test_the_knee_cuts_after_the_high_scores() -> None:
    assert above_the_knee(torch.tensor([1.0, 9.0, 8.5, 1.2, 1.1, 1.0])).tolist() == [False, True, True] + [False] * 3
    assert above_the_knee(torch.tensor([9.0, 8.9, 8.8, 8.7, 1.0])).tolist() == [True] * 4 + [False]
    assert above_the_knee(torch.full((5,), 3.0)).all() and above_the_knee(torch.tensor([2.0])).all()
    assert above_the_knee(torch.tensor([3.0, 2.0, 1.0])).all()


@cached
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_dropped_is_the_dense_model_token_by_token(kind: str) -> None:
    model, (ids, image) = tiny(kind), prompt()
    read = CoreMatching(alpha=1.0, beta=1.0, layer=0).read(model, torch.zeros_like(image), input_ids=ids)
    assert read.length == 24
    with torch.no_grad():
        whole, wanted = ids, []
        for _ in range(6):
            logits = model(input_ids=whole).logits[0, -1]
            wanted.append(int(logits.argmax()))
            whole = torch.cat([whole, logits.argmax().view(1, 1)], 1)
    assert read.generate(6) == wanted


@cached
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_later_blocks_and_the_cache_hold_the_kept_tokens_only(kind: str, attention: str) -> None:
    """Dropping after block 0 is the dense model whose block 1 sees the kept tokens at their own positions."""
    model, (ids, image) = tiny(kind, attn_implementation=attention), prompt()
    seen = []
    last = feed_forwards(model)[1].down.register_forward_pre_hook(lambda m, a: seen.append(a[0].flatten(0, -2)))
    read = CoreMatching(alpha=0.3, beta=0.3, layer=0).read(model, image, input_ids=ids)
    kept = int(read.kept.numel())
    assert read.length == kept == len(seen[0]) < 24
    assert set((~image).nonzero()[:, 0].tolist()) <= set(read.kept.tolist())
    dense = reference(model, ids, read.kept, attention)
    assert torch.allclose(read.logits, dense, atol=1e-4)
    read.generate(4)
    assert read.length == kept + 3
    last.remove()
    with torch.no_grad():
        model(input_ids=ids)  # nothing is left behind


def reference(model: Any, ids: torch.Tensor, kept: torch.Tensor, attention: str) -> torch.Tensor:
    """The whole prompt through the model, with every dropped token out of sight in block 1 by an attention mask."""
    blocks = [m for m in model.modules() if type(m).__name__ in BLOCKS]
    wall = torch.full((24, 24), float("-inf")).triu(1)
    dropped = torch.ones(24, dtype=torch.bool).scatter(0, kept, False)
    wall[:, dropped] = float("-inf")
    wall.fill_diagonal_(0.0)

    def mask(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if len(args) > 2:  # GPT-2 gives its mask by position
            return (*args[:2], wall[None, None], *args[3:]), kwargs
        return args, kwargs | {"attention_mask": wall[None, None]}

    handle = blocks[1].register_forward_pre_hook(mask, with_kwargs=True)
    with torch.no_grad():
        found = model(input_ids=ids, use_cache=False).logits[0, -1]
    handle.remove()
    return found


BLOCKS = ("LlamaDecoderLayer", "Qwen3DecoderLayer", "MistralDecoderLayer", "OPTDecoderLayer", "GPT2Block")


@cached
@pytest.mark.parametrize("kind", ["Llama", "OPT", "GPT2"])
def test_the_gathered_feed_forward_equals_the_masked_one(kind: str) -> None:
    model, (ids, image) = tiny(kind), prompt()
    method = CoreMatching(alpha=0.5, beta=0.4, layer=0)
    read, twin = (method.read(model, image, input_ids=ids) for _ in range(2))
    with narrowed(model, read.cores):
        width = 128 if kind == "GPT2" else 64
        assert weight_of(feed_forwards(model)[1].down).shape[1] == round(0.4 * width)
        found = read.step(7)
    handles = [masked(layer, index, width) for layer, index in twin.cores.values()]
    wanted = twin.step(7)
    for handle in handles:
        handle.remove()
    assert torch.allclose(found, wanted, atol=1e-5)
    assert {id(layer.down) for layer in feed_forwards(model)} == {id(layer.down) for layer, _ in read.cores.values()}


def masked(layer: Any, index: torch.Tensor, width: int) -> Any:
    keep = torch.zeros(width).scatter(0, index, 1.0)
    return layer.down.register_forward_pre_hook(lambda module, args: (args[0] * keep,))


def needles(seed: int, question: torch.Tensor, count: int = 12, fillers: int = 88) -> tuple[Any, ...]:
    """Embeddings of 100 image tokens and 12 of text: needles look like the question, fillers like nothing twice."""
    g = torch.Generator().manual_seed(seed)
    embeds = torch.randn(112, 32, generator=g)
    planted = torch.zeros(112, dtype=torch.bool)
    planted[torch.randperm(100, generator=g)[:count]] = True
    text = torch.arange(112) >= 100
    alike = planted | text
    embeds[alike] = question + 0.3 * embeds[alike]
    return embeds[None], ~text, planted


@cached
def test_needles_are_kept_and_most_fillers_dropped_where_a_random_choice_loses_the_needles() -> None:
    model, counts = tiny("Llama"), []
    with torch.no_grad():
        for layer in model.modules():
            if type(layer).__name__ == "LlamaAttention":
                layer.o_proj.weight.mul_(0.1)  # as in a trained model's middle: what a token is outweighs its context
    question = torch.randn(32, generator=torch.Generator().manual_seed(9)) * 1.5
    prompts = [needles(seed, question) for seed in range(6)]
    kept = [
        CoreMatching(alpha=0.4, beta=0.2, layer=0).read(model, image, inputs_embeds=embeds).kept
        for embeds, image, _ in prompts
    ]
    counts = [len(k) for k in kept]

    def check(choice: list[torch.Tensor]) -> None:
        for found, (_, _, planted) in zip(choice, prompts, strict=True):
            chosen = torch.zeros(112, dtype=torch.bool).scatter(0, found, True)
            assert (chosen & planted).sum() >= 0.9 * planted.sum() and chosen[:100].sum() <= 30

    g = torch.Generator().manual_seed(0)
    chance = [torch.randperm(100, generator=g)[: len(k) - 12] for k in kept]
    assert_beats_impostor(check, kept, chance)
    assert len(set(counts)) > 1  # the number kept varies with the prompt


@cached
def test_blocks_before_the_chosen_one_stay_dense_and_their_cache_is_trimmed_too() -> None:
    model, (ids, image) = tiny("Llama", num_hidden_layers=4), prompt()
    seen: dict[int, int] = {}
    for i, layer in enumerate(feed_forwards(model)):
        layer.down.register_forward_pre_hook(lambda m, a, i=i: seen.__setitem__(i, a[0].shape[1]))
    read = CoreMatching(alpha=0.3, beta=0.25, layer=1).read(model, image, input_ids=ids)
    kept = len(read.kept)
    assert kept < 24 and seen == {0: 24, 1: 24, 2: kept, 3: kept} and read.length == kept
    assert list(read.cores) == [f"model.layers.{i}.mlp" for i in (1, 2, 3)]
    assert all(len(index) == 16 for _, index in read.cores.values())


def test_the_door_of_thresholds_says_that_this_is_another_kind() -> None:
    with pytest.raises(UnknownNameError, match="'corematching' is no method for activations"):
        rarefy.sparsify_activations(tiny("Llama"), "corematching", sparsity=0.5)


def test_all_text_tokens_stay() -> None:
    image = torch.tensor([True, True, False, True])
    core = torch.tensor([[1, 1], [0, 0], [0, 0], [0, 0]]).bool()
    assert core_tokens(core, torch.tensor([True, True]), image).tolist() == [True, False, True, False]


@cached
def test_stop_ends_the_generation() -> None:
    model, (ids, image) = tiny("Llama"), prompt()

    def read() -> ReadPrompt:
        return CoreMatching(layer=0).read(model, image, input_ids=ids)

    whole = read().generate(5)
    assert len(whole) == 5 and read().generate(5, stop=whole[0]) == whole[:1] and read().generate(0) == []


def test_a_cache_of_another_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.DynamicCache", dict)
    with pytest.raises(ModelError, match="keeps keys and values in another form; install a later release"):
        new_cache()


def test_bad_input_says_what_to_do() -> None:
    model, (ids, image) = tiny("Llama"), prompt()
    with pytest.raises(DataError, match="marks for 3 tokens"):
        CoreMatching(layer=0).read(model, image[:3], input_ids=ids)
    with pytest.raises(DataError, match="give one prompt"):
        CoreMatching(layer=0).read(model, image, input_ids=ids.expand(2, -1))
    with pytest.raises(DataError, match="either input_ids"):
        CoreMatching(layer=0).read(model, image)
    with pytest.raises(DataError, match="has to be unmarked"):
        CoreMatching(layer=0).read(model, torch.ones_like(image), input_ids=ids)
    with pytest.raises(ModelError, match="layer 1 of 2 blocks has no later one"):
        CoreMatching(layer=1).read(model, image, input_ids=ids)
    with pytest.raises(ModelError, match="no feed-forward layer is known"):
        CoreMatching(layer=0).read(nn.Linear(2, 2), image, input_ids=ids)
    with pytest.raises(SparsityError, match="alpha 0"):
        CoreMatching(alpha=0.0)


@pytest.mark.parametrize("image", [torch.ones(12, dtype=torch.long), torch.zeros(1, 12, dtype=torch.bool)])
def test_marks_that_are_no_bool_tensor_of_the_tokens_are_refused(image: torch.Tensor) -> None:
    with pytest.raises(DataError, match="give a bool tensor"):
        CoreMatching(layer=0).read(tiny("Llama"), image, input_ids=torch.arange(12)[None])
