"""Every main call, and what it changes of the process that makes it. A program of its own: test runners change much."""

import copy
import json
import random
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rarefy
from convnets import Small, prepared
from reliability.process_state import changed, state
from transformers_tiny import ids, tiny

ODD_SEED = 987_654


MODELS = [nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 8)).eval() for _ in range(2)]
LLAMA, BERT = tiny("Llama"), tiny("Bert")


def network() -> nn.Sequential:
    """A copy: making one draws from the generators that are watched."""
    return copy.deepcopy(MODELS[0])


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 32, generator=generator) for _ in range(2)]


def pruned() -> nn.Sequential:
    made = network()
    rarefy.prune(made, "magnitude", sparsity=0.8, measure=False)
    return made


def prunes(method: str) -> Callable[[Path], Any]:
    return lambda folder: rarefy.prune(network(), method, sparsity=0.5, data=batches(), measure=False)


def saves(folder: Path) -> None:
    rarefy.save(pruned(), folder / "one")
    rarefy.load(folder / "one", model=copy.deepcopy(MODELS[1]))


def compiles(folder: Path) -> None:
    fast = rarefy.compile(pruned(), [batches()[0], batches()[0][:1]])
    fast(batches()[0])
    rarefy.save(fast, folder / "two")
    rarefy.load(folder / "two", model=copy.deepcopy(MODELS[1]))(batches()[0][:1])


def generates(folder: Path) -> None:
    model = copy.deepcopy(LLAMA)
    rarefy.prune(model, "magnitude", sparsity=0.5, measure=False)
    fast = rarefy.compile(model, {"input_ids": ids(1, 8)})
    fast.generate(ids(1, 8), max_new_tokens=4, do_sample=False)
    fast.generate(ids(1, 8), max_new_tokens=4, do_sample=True, seed=3)


def selects(folder: Path) -> None:
    model = copy.deepcopy(LLAMA)
    text = [{"input_ids": ids(2, 16, i)} for i in range(2)]
    rarefy.sparsify_activations(model, "teal", sparsity=0.5, data=text, allocation="uniform")
    model(ids(1, 8))


def trains(method: str) -> Callable[[Path], Any]:
    def call(folder: Path) -> None:
        model = network().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        trainer = rarefy.sparse_training(model, optimizer, method, sparsity=0.8, total_steps=8)
        for x in batches():
            optimizer.zero_grad()
            model(x).square().sum().backward()
            trainer.step()
        trainer.detach()

    return call


def compares(folder: Path) -> None:
    rarefy.compare(
        network(), ["magnitude", "wanda"], evaluate=lambda m: 1.0, sparsity=0.5, data=batches(), out=folder / "out"
    )


def loads_hugging_face(folder: Path) -> None:
    rarefy.save(BERT, folder / "bert")
    rarefy.load(folder / "bert")


def refuses(folder: Path) -> None:
    """Errors clean up too."""
    wrong: list[Callable[[], Any]] = [
        lambda: rarefy.prune(MODELS[0], "no-such-method", sparsity=0.5),
        lambda: rarefy.prune(MODELS[0], "sparsegpt", sparsity=0.5),
        lambda: rarefy.load(folder),
    ]
    for call in wrong:
        try:
            call()
        except rarefy.RarefyError:
            continue
        raise AssertionError("it was not refused")


CALLS: dict[str, Callable[[Path], Any]] = {
    **{f"prune with {name}": prunes(name) for name in ("wanda", "sparsegpt", "random", "ria", "alps")},
    **{f"train with {name}": trains(name) for name in ("rigl", "set", "acdc")},
    "save and load": saves,
    "compile": compiles,
    "generate": generates,
    "select activations": selects,
    "compare": compares,
    "load a Hugging Face model": loads_hugging_face,
    "refuse": refuses,
}


def convolves(folder: Path) -> None:
    x = torch.ones(2, 3, 31, 31)
    rarefy.compile(CONVNET, x)(x)


def times(folder: Path) -> None:
    rarefy.benchmark(pruned(), batches()[0], rounds=3, against=())


CONVNET = prepared(Small())
CALLS |= {"compile a convnet": convolves, "benchmark": times}


def main(folder: Path) -> None:
    """Writes {call: {what it changed: (before, after)}} as JSON."""
    import_module("torch.export"), import_module("torch._dynamo")
    import_module("torch._inductor.compiler_bisector")  # torch 2.6: the import sets TORCHINDUCTOR_CACHE_DIR
    torch.manual_seed(ODD_SEED), random.seed(ODD_SEED)
    torch.set_float32_matmul_precision("high")
    found = {}
    for name, call in CALLS.items():
        (folder / name).mkdir()
        before = state()
        call(folder / name)
        found[name] = changed(before, state())
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
