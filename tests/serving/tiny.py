"""Folders with an encoder and a language model so small that serving them costs next to nothing."""

from pathlib import Path

import rarefy
from transformers_tiny import tiny

TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}assistant:"


def write_writer(carried: Path, folder: Path) -> Path:
    """A Llama of two blocks with random weights and half of them zeros, whose tokens are bytes; carried: a folder for
    its tokenizer alone."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=TEMPLATE
    )
    sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 512, "initializer_range": 0.3}
    tokens = {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    return _write(tiny("Llama", **sizes, **tokens), words, carried, folder)


def write_encoder(carried: Path, folder: Path) -> Path:
    """A BERT of one block with random weights and half of them zeros, with a word for each letter."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = ["[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(letters)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    model = tiny("Bert", num_hidden_layers=1, vocab_size=len(letters), pad_token_id=0)
    return _write(model, words, carried, folder)


def _write(model, words, carried: Path, folder: Path) -> Path:
    words.save_pretrained(carried)
    rarefy.prune(model, "magnitude", sparsity=0.5, measure=False)
    rarefy.save(model, folder, carry=carried)
    return folder
