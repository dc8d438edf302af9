"""Compiled models in pipelines of transformers: the results of the plain ones."""

from typing import Any

import pytest
import torch

import rarefy
from rarefy.engine import CompiledDecoder

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "the", "cat", "sat", "on", "a", "mat", "dog", "ran", "it", "was", "bad"]
TEXTS = ["the cat sat on a mat", "it was bad", "dog ran"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
NAMES = {0: "contradiction", 1: "neutral", 2: "entailment"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    known = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    known.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    known.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=known, model_max_length=40, padding_side="left", **names
    )


def both(kind: str, config: Any, tokenizer: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    return model, rarefy.compile(model, batch, measure=False)


def alike(found: Any, wanted: Any) -> bool:
    """The same structure and words, numbers to rounding."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(alike(found[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(alike, found, wanted))
    return found == (wanted if isinstance(wanted, str | None) else pytest.approx(wanted, rel=1e-4, abs=1e-5))


@pytest.mark.parametrize(
    ("task", "kind", "given", "options"),
    [
        ("feature-extraction", "BertModel", TEXTS, {}),
        ("text-classification", "BertForSequenceClassification", TEXTS, {"top_k": None}),
        ("token-classification", "BertForTokenClassification", TEXTS, {}),
        ("fill-mask", "BertForMaskedLM", ["the [MASK] sat", "it [MASK] bad"], {}),
        (
            "zero-shot-classification",
            "BertForSequenceClassification",
            TEXTS,
            {"candidate_labels": ["cat", "dog"], "hypothesis_template": "it was {}"},
        ),
    ],
)
def test_an_encoder_serves_in_a_pipeline(task, kind, given, options, tokenizer) -> None:
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        max_position_embeddings=40,
        id2label=NAMES,
        label2id={n: i for i, n in NAMES.items()},
        **SIZES,
    )
    plain, fast = (transformers.pipeline(task, model=m, tokenizer=tokenizer) for m in both(kind, config, tokenizer))
    assert type(fast.model).__name__ == "Compiled"
    for size in (1, 2):
        assert alike(fast(given, batch_size=size, **options), plain(given, batch_size=size, **options))


def test_a_language_model_serves_in_a_pipeline(tokenizer, monkeypatch) -> None:
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), num_key_value_heads=2, bos_token_id=None, eos_token_id=3, pad_token_id=0, **SIZES
    )
    models = both("LlamaForCausalLM", config, tokenizer)
    plain, fast = (transformers.pipeline("text-generation", model=m, tokenizer=tokenizer) for m in models)
    assert type(fast.model).__name__ == "CompiledDecoder"
    monkeypatch.setattr(CompiledDecoder, "_whole", lambda *_: pytest.fail("it was generated in torch"))
    options = {"max_new_tokens": 8, "do_sample": False}
    for size in (1, 3):
        assert fast(TEXTS, batch_size=size, **options) == plain(TEXTS, batch_size=size, **options)
