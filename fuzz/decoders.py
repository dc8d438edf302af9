"""Compiled language models: prompts, masks, ids and lengths of any kind, against the model in torch."""

import random
from functools import cache
from typing import Any

import torch
from draw import seeded, size, threads
from language_models import POSITIONS, VOCABULARY, build, compiled

from rarefy.core.errors import RarefyError


@cache
def _made(kind: str) -> tuple[Any, Any]:
    model = build(kind)
    return model, compiled(model)


def case(rng: random.Random) -> None:
    model, fast = _made(rng.choice(("llama", "opt")))
    threads(rng)
    with torch.inference_mode():
        rng.choice((_logits, _text, _wrong))(rng, model, fast)


def _prompt(rng: random.Random, least: int = 1) -> torch.Tensor:
    shape = (rng.randint(1, 4), size(rng, 40, least))
    return torch.randint(1, VOCABULARY, shape, generator=seeded(rng))


def _logits(rng: random.Random, model: Any, fast: Any) -> None:
    ids = _prompt(rng)
    mask = (torch.rand(ids.shape, generator=seeded(rng)) < 0.8).long()
    mask[:, -1] = 1
    left = mask.sort(dim=1).values  # padding on the left, as texts of several lengths are
    got, want = (which(input_ids=ids, attention_mask=left).logits for which in (fast, model))
    seen = left.bool()
    torch.testing.assert_close(got[seen], want[seen], rtol=1e-3, atol=1e-3)


def _text(rng: random.Random, model: Any, fast: Any) -> None:
    ids, more = _prompt(rng), rng.choice((1, 2, 15, 16, 17, 40))
    text = fast.generate(ids, max_new_tokens=more, do_sample=rng.random() < 0.5)
    assert text.shape == (ids.shape[0], ids.shape[1] + more) and torch.equal(text[:, : ids.shape[1]], ids)
    assert int(text.min()) >= 0 and int(text.max()) < VOCABULARY


def _wrong(rng: random.Random, model: Any, fast: Any) -> None:
    """Arguments that make no sense are refused, as errors of ours or of torch's kinds."""
    ids = _prompt(rng)
    how: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}
    kind = rng.randrange(6)
    if kind == 0:
        ids = ids.clone()
        ids.view(-1)[rng.randrange(ids.numel())] = rng.choice((-1, VOCABULARY, 2**31, 2**62, -(2**63)))
    elif kind == 1:
        how["max_new_tokens"] = rng.choice((-1, POSITIONS * 2, 2**31, 2**40, 1.5, "x"))
    elif kind == 2:
        ids = rng.choice((ids.float(), ids[0], ids[:, :0], ids[None], ids.bool()))
    elif kind == 3:
        how["attention_mask"] = rng.choice(
            (ids[:, :0], torch.zeros(3, 99), torch.zeros_like(ids) - 5, ids.float() * 0.5)
        )
    elif kind == 4:
        how |= {
            "do_sample": True,
            **rng.choice(({"top_k": -3}, {"top_p": 7.0}, {"temperature": -1.0}, {"temperature": 0.0})),
        }
    else:
        how["eos_token_id"] = rng.choice((-5, VOCABULARY, 2**40, [], [1, 2**40]))
    try:
        fast.generate(ids, **how)
    except (RarefyError, ValueError, IndexError, TypeError):
        return
    assert kind not in (0, 1), f"{how} was taken"
