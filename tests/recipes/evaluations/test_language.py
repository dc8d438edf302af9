"""Perplexity of models whose loss is known."""

import math

import pytest
import torch
from torch import nn

from rarefy.core.errors import DataError, ModelError
from rarefy.recipes.evaluations.language import Perplexity, next_token_loss, windows


class Bigram(nn.Module):
    """Says that token t + 1 follows token t, with probability `sure`, over 8 tokens."""

    def __init__(self, sure):
        super().__init__()
        self.sure = sure

    def forward(self, input_ids):
        rest = (1 - self.sure) / 7
        wanted = nn.functional.one_hot((input_ids + 1) % 8, 8).float()
        return (rest + (self.sure - rest) * wanted).log()


COUNTING = (torch.arange(64) % 8).view(4, 16)


def test_perplexity_is_the_inverse_of_the_probability_of_what_follows():
    found = Perplexity(COUNTING)(Bigram(0.25))
    assert found["perplexity"] == pytest.approx(4.0, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(2.0, rel=1e-5)
    assert Perplexity(COUNTING)(Bigram(1 / 8))["perplexity"] == pytest.approx(8.0, rel=1e-5)


def test_bits_are_by_byte_of_text():
    assert Perplexity(COUNTING, bytes_per_token=4.0)(Bigram(0.25))["bits_per_byte"] == pytest.approx(0.5, rel=1e-5)


def test_every_window_counts_alike_however_batches_are_cut():
    cut = torch.randint(0, 8, (21, 16), generator=torch.Generator().manual_seed(0))
    model = Bigram(0.5)
    wanted = sum(float(next_token_loss(model, {"input_ids": row[None]})) for row in cut) / 21
    assert math.log(Perplexity(cut)(model)["perplexity"]) == pytest.approx(wanted, rel=1e-5)


def test_windows_do_not_overlap_and_follow_the_seed():
    text = torch.arange(1000)
    a, b = windows(text, 10, 20, seed=1), windows(text, 10, 20, seed=2)
    assert a.shape == (20, 10) and len(a.unique()) == 200
    assert not a.equal(b) and a.equal(windows(text, 10, 20, seed=1))
    spread = windows(text, 10, 4)
    assert spread[:, 0].tolist() == [0, 250, 500, 750]


def test_too_little_text_is_an_error_with_numbers():
    with pytest.raises(DataError, match="95 tokens, 9 windows of 10; 20 are asked"):
        windows(torch.arange(95), 10, 20)


def test_a_model_without_logits_is_refused():
    class Vector(nn.Module):
        def forward(self, input_ids):
            return input_ids.float()

    with pytest.raises(ModelError, match="no logits"):
        Perplexity(COUNTING)(Vector())
