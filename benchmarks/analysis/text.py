"""Byte transformers of two layers on tinyshakespeare as in benchmarks/training/checks.py (width 64, windows of 32
bytes, the output layer dense), 300 steps, and 150 of retraining; bits a byte of new text."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from checks import Check
from checks_text import KEPT, batch, bits, fresh, learn, text
from proof_tasks import Bytes
from torch import Tensor, nn

import rarefy
from rarefy.activations.q_sparse import QSparse
from rarefy.analysis.q_sparse_law import QSparseLaw
from rarefy.analysis.sparse_scaling_law import SparseScalingLaw
from rarefy.core.site import find_sites
from rarefy.recipes.evaluations.language import Perplexity, batches_of, next_token_loss
from rarefy.training.sltrain import sltrain
from rarefy.training.sst import sst

TITLE = "Small transformers on text"
Rows = list[tuple[str, float, float]]
STEPS, TUNING = 300, 150


@functools.cache
def _dense(path: Path, seed: int) -> nn.Module:
    model = fresh(seed)
    learn(model, text(path), STEPS, seed)
    return model


def made(path: Path, seed: int, change: Callable[[nn.Module], Any], trainer: Any = None) -> float:
    """Bits of a model that is changed before its training; trainer(model, optimizer)."""
    model = fresh(seed)
    change(model)
    learn(model, text(path), STEPS, seed, None if trainer is None else lambda o: trainer(model, o))
    return bits(model, text(path))


def low_rank_and_sparse(path: Path, seed: int) -> Rows:
    """Rank 8 and 3 % of the entries, beside low rank alone and a random mask, neither with fewer entries."""
    report = sltrain(fresh(seed), rank=8, ignore=KEPT, seed=seed)
    more = sltrain(fresh(seed), rank=10, sparsity=0.9995, ignore=KEPT, seed=seed)
    assert report.trained <= more.trained
    ours = made(path, seed, lambda m: sltrain(m, rank=8, ignore=KEPT, seed=seed))
    rank = made(path, seed, lambda m: sltrain(m, rank=10, sparsity=0.9995, ignore=KEPT, seed=seed))
    zeros = {"sparsity": 1.0 - report.trained / report.dense, "seed": seed, "ignore": KEPT}
    mask = made(path, seed, lambda m: None, lambda m, o: rarefy.sparse_training(m, o, "static", **zeros))
    return [
        ("sltrain, rank 8 and 3 % of the entries, below rank 10", ours, rank),
        ("sltrain, rank 8 and 3 % of the entries, below a random mask of as many", ours, mask),
        ("sltrain, rank 8 and 3 % of the entries, beside dense", ours, bits(_dense(path, seed), text(path))),
    ]


class Added(nn.Module):
    """A frozen layer and a trained change of low rank."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.a = nn.Parameter(torch.randn(rank, layer.in_features) * layer.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) + x @ self.a.t() @ self.b.t()
        return y


def _added(model: nn.Module, rank: int) -> None:
    for site in find_sites(model, KEPT)[0]:
        if type(site.module) is nn.Linear:
            model.set_submodule(site.name, Added(site.module, rank))


def spectral(path: Path, seed: int) -> Rows:
    """Eight columns at a time, changed every 15 steps."""
    options: dict[str, Any] = {"rank": 8, "ignore": KEPT, "seed": seed}
    ours = made(path, seed, lambda m: None, lambda m, o: sst(m, o, every=15, warmup=3, **options))
    still = made(path, seed, lambda m: None, lambda m, o: sst(m, o, every=10 * STEPS, **options))
    return [
        ("sst, 8 columns in turns, below the same 8 all the time", ours, still),
        ("sst, 8 columns in turns, below a change of rank 8", ours, made(path, seed, lambda m: _added(m, 8))),
        ("sst, 8 columns in turns, beside dense", ours, bits(_dense(path, seed), text(path))),
    ]


def settled(path: Path, seed: int) -> Rows:
    """A dense model retrained to 2:4 for 150 steps."""
    ids, found = text(path), {}
    for label, name, options in (
        ("ast", "ast-slorb", {"every": 1, "block": 16}),
        ("no adapter", "ast-slorb", {"every": 1, "adapter": False}),
        ("a frozen mask", "static", {"start": "magnitude"}),
        ("sr-ste", "sr-ste", {}),
    ):
        model = copy.deepcopy(_dense(path, seed))
        settings: dict[str, Any] = {"pattern": "2:4", "total_steps": TUNING, "ignore": KEPT, **options}
        learn(model, ids, TUNING, seed + 50, functools.partial(rarefy.sparse_training, model, method=name, **settings))
        found[label] = bits(model, ids)
    ours = found.pop("ast")
    return [(f"ast-slorb, 2:4, below {label}", ours, value) for label, value in found.items()]


def _gradual(model: nn.Module, sparsity: float, steps: int) -> Callable[[Any], Any]:
    options: dict[str, Any] = {"every": 10, "begin": 0.25, "end": 0.75, "total_steps": steps, "ignore": KEPT}
    return lambda o: rarefy.sparse_training(model, o, "gmp-zhu-gupta", sparsity=sparsity, **options)


@functools.cache
def _family(path: Path) -> list[tuple[float, float, float, float]]:
    """(sparsity, non-zeros, steps, bits): trainings with gradual pruning to a sparsity."""
    ids, found = text(path), []
    for width in (32, 48, 64):
        for sparsity in (0.0, 0.5, 0.75, 0.875):
            for steps in (60, 120, 240):
                torch.manual_seed(0)
                model = Bytes(width, 32)
                learn(model, ids, steps, 0, _gradual(model, sparsity, steps) if sparsity else None)
                left = sum(float((s.read() != 0).sum()) for s in find_sites(model, KEPT)[0])
                found.append((sparsity, left, float(steps), bits(model, ids)))
    return found


def _off(law: Any, rows: list[tuple[float, ...]]) -> float:
    """Mean error, per cent."""
    return 100 * sum(abs(law(row) / row[-1] - 1) for row in rows) / len(rows)


def scaling(path: Path, seed: int) -> Rows:
    """36 trainings of widths 32 to 64; told are those of the widest with most steps, fitted to all others."""
    known = _family(path)
    largest = sorted(known, key=lambda r: -r[1] / (1 - r[0]))
    told = [r for r in largest[:12] if r[2] == 240]
    fitted = [r for r in known if r not in told]
    s, n, d, loss = (list(column) for column in zip(*fitted, strict=True))
    ours = SparseScalingLaw.fit(s, n, d, loss)
    blind = SparseScalingLaw.fit([0.0] * len(s), n, d, loss)
    mean = sum(loss) / len(loss)
    return [
        ("sparse-scaling-law: error on held-out runs, below a law without sparsity",
         _off(lambda r: ours.predict(*r[:3]), told), _off(lambda r: blind.predict(0.0, *r[1:3]), told)),
        ("sparse-scaling-law: error on held-out runs, below the mean loss",
         _off(lambda r: ours.predict(*r[:3]), told), _off(lambda r: mean, told)),
    ]  # fmt: skip


def _llama(width: int, sparsity: float, data: Path) -> tuple[float, float]:
    """(weights of the blocks, bits a byte) of a Q-Sparse Llama of two layers after 100 steps."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, max_position_embeddings=64, tie_word_embeddings=True)
    model: nn.Module = LlamaForCausalLM(config)
    QSparse(sparsity).apply(model)
    ids = text(data)
    seen, order = ids[: int(0.95 * len(ids))], torch.Generator().manual_seed(0)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 100)
    for _ in range(100):
        next_token_loss(model, batches_of(batch(seen, order, 24), 24)[0]).backward()
        adam.step()
        adam.zero_grad()
        slower.step()
    rest = ids[int(0.95 * len(ids)) :][: 256 * 33].view(256, 33)
    weights = sum(s.read().numel() for s in find_sites(model, ["lm_head"])[0])
    return float(weights), Perplexity(rest)(model.eval())["bits_per_byte"]


def q_sparse(path: Path, seed: int) -> Rows:
    """12 Q-Sparse trainings of widths 32 to 64 with 0 to 80 % of the inputs out; told are those of the widest."""
    runs = [(width, s, *_llama(width, s, path)) for width in (32, 48, 64) for s in (0.0, 0.4, 0.6, 0.8)]
    fitted, told = ([r for r in runs if (r[0] == 64) == largest] for largest in (False, True))
    _, s, n, loss = (list(column) for column in zip(*fitted, strict=True))
    ours, blind = QSparseLaw.fit(n, s, loss), QSparseLaw.fit(n, [0.0] * len(s), loss)
    return [
        ("q-sparse-law: error on the widest nets, below a law without sparsity",
         _off(lambda r: ours.predict(r[2], r[1]), told), _off(lambda r: blind.predict(r[2], 0.0), told)),
        ("q-sparse-law: error on the widest nets, below the mean loss",
         _off(lambda r: ours.predict(r[2], r[1]), told), _off(lambda r: sum(loss) / len(loss), told)),
    ]  # fmt: skip


CHECKS: dict[str, Check] = {
    "low-rank-and-sparse": Check(low_rank_and_sparse, "bits a byte", more=False),
    "spectral": Check(spectral, "bits a byte", more=False),
    "settled": Check(settled, "bits a byte", more=False),
    "scaling": Check(scaling, "%", more=False),
    "q-sparse": Check(q_sparse, "%", more=False),
}
SEEDS: dict[str, int] = {}
