"""What lies beside saved compiled models, with other kernels, shapes, limits and scales: refused, or still right."""

import json
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rarefy
from rarefy.core.errors import RarefyError
from rarefy.engine.conv_choices import known_kernels
from rarefy.ops import kernels
from rarefy.recipes import store
from rarefy.recipes.store_engine import FILE, INPUTS

store.compile_again = lambda model, *_: model  # measuring for seconds is not what is fuzzed here


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64)).eval()


def _images(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
        nn.Linear(24, 8),
    ).eval()  # fmt: skip


@cache
def _saved(images: bool) -> tuple[Path, dict[str, Any], bytes, torch.Tensor, torch.Tensor]:
    """(folder, engine.json, the tensors beside it, an input, the model's output)"""
    folder, model = Path(tempfile.mkdtemp(prefix="rarefy-fuzz-")), (_images if images else _network)(0)
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    x = torch.randn(16, 3, 24, 20) if images else torch.randn(16, 64)
    with torch.inference_mode():
        want = model(x)
    fast = rarefy.compile(model, [x, x[:1].clone()], measure=False)
    rarefy.save(fast, folder)
    return folder, json.loads((folder / FILE).read_text()), (folder / INPUTS).read_bytes(), x, want


_EACH = " on each thread"
_ODD = (None, -1, 0, 1, 1.5, 2**31, 2**63, 1e400, "", "x", [], {}, True, [[]], "spmm", float("nan"))


def case(rng: random.Random) -> None:
    images = rng.random() < 0.3  # whose graph is captured at each load
    folder, said, inputs, x, want = _saved(images)
    said = json.loads(json.dumps(said))
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.4:
            (_other_convs if images and rng.random() < 0.7 else _other_kernels)(rng, said)
        else:
            _anything(rng, said)
    text = json.dumps(said)
    if rng.random() < 0.1:
        text = text[: rng.randrange(len(text))]
    (folder / FILE).write_text(text)
    data = bytearray(inputs)
    if rng.random() < 0.2:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    (folder / INPUTS).write_bytes(data)
    try:
        back = rarefy.load(folder, model=(_images if images else _network)(1))
        with torch.inference_mode():
            got = back(x)
    except RarefyError as error:
        assert str(error)
        return
    except ValueError as error:  # a kernel that does not take this weight says why
        assert str(error).startswith("pack"), error
        return
    exact = isinstance(said.get("precision"), dict) and said["precision"].get("weights", "fp32") == "fp32"
    room = 1e-4 if exact and said["precision"].get("activations", "fp32") == "fp32" else 0.5
    assert (got - want).abs().max() < room


def _other_kernels(rng: random.Random, said: dict[str, Any]) -> None:
    names = [kernel.name for kernel in kernels()]
    steps = [[rng.choice((0, 1, 7, 16, 2**31, 2**62)), rng.choice((*names, None))] for _ in range(rng.randint(1, 3))]
    if isinstance(said.get("kernels"), dict):
        said["kernels"][rng.choice(("0", "2", "1", "elsewhere", ""))] = steps
    if rng.random() < 0.3:
        types = rng.choice((("int8", "int8"), ("int8", "fp32"), ("int4", "fp32"), ("bf16", "bf16")))
        said["precision"] = dict(zip(("weights", "activations"), types, strict=True))
    if rng.random() < 0.3:
        said["scales"] = {rng.choice(("0", "2")): [rng.choice((0.05, 1e-45, 1e300, 3e38)), rng.randint(0, 255)]}


def _other_convs(rng: random.Random, said: dict[str, Any]) -> None:
    names = [*known_kernels(), "dense", "reference"]
    convs = said.get("convs")
    if not isinstance(convs, dict) or not isinstance(convs.get("kernels"), dict):
        return
    steps = [[[16, 24, 20], rng.choice((*names, None))] for _ in range(rng.randint(1, 2))]
    convs["kernels"][rng.choice(("0", "4", "5", "9", "elsewhere"))] = steps
    if rng.random() < 0.5:
        ways = "images across lanes", "1 images at a time", f"2 images at a time{_EACH}", f"3 at a time{_EACH}"
        said["runs"] = [f"graph, {rng.choice(ways)}" for _ in range(2)]
    if rng.random() < 0.5 and isinstance(convs.get("seen"), list):
        graph = [f"rarefy_{kind}_{n}" for kind in ("conv", "pool") for n in range(20)]
        for one in convs["seen"]:
            if isinstance(one, dict):
                one["across"] = {name: rng.choice(names) for name in graph}
    if rng.random() < 0.3:
        said["precision"] = {"weights": "int8", "activations": "int8"}


def _anything(rng: random.Random, said: Any) -> None:
    """Replaces, removes or adds one value somewhere in the tree."""
    while True:
        keys = list(said) if isinstance(said, dict) else list(range(len(said)))
        if not keys:
            break
        key = rng.choice(keys)
        if isinstance(said[key], dict | list) and said[key] and rng.random() < 0.7:
            said = said[key]
            continue
        if rng.random() < 0.2:
            del said[key]
        else:
            said[key] = rng.choice(_ODD)
        break
