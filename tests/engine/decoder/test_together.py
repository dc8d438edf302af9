"""Texts that are written side by side get what each would get alone, whoever comes or goes."""

import pytest
import torch
from language_models import build

import rarefy
from rarefy.core.errors import EngineError, ShapeError
from rarefy.engine import CompiledDecoder


@pytest.fixture(scope="module", params=["llama", "qwen3", "opt", "gpt2"])
def fast(request):
    found = rarefy.compile(build(request.param), {"input_ids": torch.arange(8)[None]}, measure=False)
    assert isinstance(found, CompiledDecoder)
    return found


def close(got, texts, fast):
    """The logits of each row are those behind its whole text."""
    for row, text in zip(got, texts, strict=True):
        torch.testing.assert_close(row, fast(input_ids=torch.tensor([text])).logits[0, -1], rtol=1e-4, atol=1e-4)


def test_each_gets_what_it_would_get_alone(fast):
    together, texts = fast.together(), []
    draw = torch.Generator().manual_seed(0)

    def begin(tokens):
        texts.append(torch.randint(0, 60, (tokens,), generator=draw).tolist())
        close(together.add(torch.tensor([texts[-1]])), texts[-1:], fast)

    def steps(count):
        for _ in range(count):
            new = torch.randint(0, 60, (len(texts), 1), generator=draw)
            for text, token in zip(texts, new[:, 0].tolist(), strict=True):
                text.append(token)
            close(together.step(new), texts, fast)

    begin(5)
    steps(2)
    begin(21)  # longer than those that are there: they move behind padding
    begin(1)
    steps(3)
    together.keep([2, 0])  # the longest goes, the others change places
    texts[:] = [texts[2], texts[0]]
    steps(2)
    begin(17)
    steps(1)
    together.keep([])
    texts.clear()
    assert len(together) == 0
    begin(3)
    steps(1)


def test_the_cache_grows_when_it_must(fast, monkeypatch):
    monkeypatch.setattr("rarefy.engine.decoder.together._ROOM", 1)
    together, texts = fast.together(), [[1, 2, 3], [4, 5, 6, 7, 8]]
    for text in texts:
        together.add(torch.tensor([text]))
    for token in range(20):
        got = together.step(torch.tensor([[token], [token + 1]]))
        texts = [[*texts[0], token], [*texts[1], token + 1]]
    close(got, texts, fast)


def test_what_does_not_fit_is_refused_and_changes_nothing(fast):
    together = fast.together()
    with pytest.raises(ShapeError, match="one text"):
        together.add(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ShapeError, match="there are 0 texts"):
        together.step(torch.ones(1, 1, dtype=torch.int64))
    most = fast._runner.structure.most_positions
    text = [i % 60 for i in range(most)]
    together.add(torch.tensor([[1, 2]]))
    together.add(torch.tensor([text]))
    with pytest.raises(EngineError, match=f"{most + 1} tokens"):
        together.step(torch.tensor([[1], [1]]))
    together.keep([0])
    close(together.step(torch.tensor([[3]])), [[1, 2, 3]], fast)
