"""Good files of every layout that is read, made once a process: what the hostile ones are made from."""

import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialized
from test_fuzz import tensors
from torch import Tensor, nn

import rarefy
from rarefy.core.quantized import quantize_weight
from rarefy.formats import bitmask
from rarefy.formats.bitmask24 import Bitmask24
from rarefy.formats.codes import Codes
from rarefy.formats.container import Prepared, Widths, prepare
from rarefy.formats.packed import Packed
from rarefy.selectors import Threshold, TopK, select_hidden, select_inputs

SHARED = Path("/dev/shm")
Files = dict[str, bytes]


def folder() -> Path:
    """A fresh folder, in memory where the system has that."""
    return Path(tempfile.mkdtemp(prefix="rarefy-fuzz-", dir=SHARED if SHARED.is_dir() else None))


def two_of_four(rows: int = 8, groups: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(rows + groups)
    kept = torch.rand(rows, groups, 4, generator=generator).argsort(-1) < 2
    return (torch.randn(rows, groups, 4, generator=generator) * kept).reshape(rows, 4 * groups)


@cache
def own() -> Prepared:
    """What `rarefy.save` writes: dense, sparse, tied, whole numbers of four and eight bits, other widths."""
    found, codes = tensors(), {}
    for bits, groups in ((4, 2), (8, 1)):
        name, weight = f"codes{bits}.weight", two_of_four(16, 8)
        codes[name] = Codes(tuple(weight.shape), quantize_weight(weight, bits, 32 // groups))
        found[name] = codes[name].to_dense()
    found["conv.weight"] = torch.zeros(40, 3, 3, 3).index_fill_(0, torch.tensor([1, 7]), 1.5)
    widths = Widths({"layer.weight": [40, 37], "tied.bias": [40], "codes4.weight": [16, 32]}, {"layer": {"dim": 37}})
    return prepare(found, {"tied.bias": "layer.bias"}, codes, widths)


@cache
def narrower() -> Prepared:
    """What `rarefy.save` writes of `network()` after three of its neurons were cut."""
    held = dict(network().state_dict())
    cut = {"0.weight": held["0.weight"][:45], "0.bias": held["0.bias"][:45], "2.weight": held["2.weight"][:, :45]}
    widths = Widths({name: list(t.shape) for name, t in cut.items()}, {"0": {"out_features": 45}})
    return prepare({**held, **cut}, {}, None, widths)


@cache
def foreign() -> dict[str, dict[str, Tensor]]:
    """{layout: stored tensors} of other programs' safetensors files."""
    weight, whole = two_of_four(), torch.randint(-9, 9, (8, 20), dtype=torch.int8)
    mask, packed = weight.ne(0), Packed.from_dense(weight)
    root, halves = "base_model.model.a", {"supertuning_lora_A.weight": (2, 20), "supertuning_lora_B.weight": (8, 2)}
    scales = {"a.weight_scale": torch.rand(8, 5) + 0.1, "a.weight_zero_point": torch.zeros(8, 5, dtype=torch.int8)}
    return {
        "bitmask": {f"a.{part}": tensor for part, tensor in bitmask.pack(packed).items()} | {"a.bias": weight[:, 0]},
        "bitmask of a convolution": {
            f"c.weight.{part}": t for part, t in bitmask.pack(Packed.from_dense(weight.reshape(8, 5, 2, 2))).items()
        },
        "bitmask-24": {f"a.{part}": tensor for part, tensor in Bitmask24().pack(packed.matrix).items()},
        "masked": {"a.weight_orig": weight, "a.weight_mask": mask.float()},
        "nncf": {"a.weight": weight, "__nncf_hooks.post_hooks.a:weight__0.0.binary_mask": mask},
        "nncf, logits": {"a.weight": weight, "__nncf_hooks.post_hooks.a:weight__0.0.mask": mask.float() - 0.5},
        "scaled": {"a.weight": whole, **scales, "a.weight_g_idx": torch.arange(20, dtype=torch.int32) // 4},
        "scaled by row": {"a.weight": whole, "a.weight_scale": torch.rand(8, 1).bfloat16()},
        "shira": {
            f"{root}.shira_weight": torch.ones(3),
            f"{root}.shira_indices": torch.tensor([[0, 1, 7], [2, 19, 3]], dtype=torch.int32),
        },
        "super": {
            f"{root}.supertuning_values": torch.ones(3),
            f"{root}.supertuning_indices": torch.tensor([0, 1, 159], dtype=torch.int32),
            **{f"{root}.{part}": torch.ones(shape) for part, shape in halves.items()},
        },
        "float8": {"a.weight": weight.to(torch.float8_e4m3fn), "a.weight_scale": torch.tensor([0.5])},
    }


@cache
def adapter_configs() -> list[dict[str, Any]]:
    said = {"lora_alpha": 8, "select_top": True, "r": 2, "target_modules": ["a"]}
    return [{"peft_type": kind, **said} for kind in ("SHIRA", "SUPERTUNING")]


@cache
def archives() -> list[bytes]:
    """Files of torch.save: each sparse layout, masks, shared views, types, a checkpoint, parameters."""
    weight = two_of_four()
    mask = weight.ne(0)
    state = [
        {"a.weight": weight, "b": weight[:2], "t": weight.t(), "epoch": 3, "h": weight.half()},
        {"a.weight": weight.to_sparse_coo(), "c": weight.to_sparse_csr(), "d": weight.to_sparse_csc()},
        {"a.weight": weight.to_sparse_bsr((4, 4)), "d": weight.to_sparse_bsc((2, 2))},
        {"a.weight_orig": weight, "a.weight_mask": mask.float(), "u": torch.zeros(3, dtype=torch.uint16)},
        {"a.weight": nn.Parameter(weight), "f": weight.to(torch.float8_e5m2), "z": torch.zeros(0, 4)},
        {f"a.{part}": tensor for part, tensor in bitmask.pack(Packed.from_dense(weight)).items()},
        {"state_dict": {"a.weight": weight}, "optimizer": {"state": {0: {"exp_avg": weight}}}, "lr": 0.1},
        nn.Linear(4, 4).state_dict(),
    ]
    found = []
    for said in state:
        file = io.BytesIO()
        torch.save(said, file)
        found.append(file.getvalue())
    return found


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 8)).eval()


def _files(place: Path) -> Files:
    return {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}


@cache
def compiled() -> Files:
    """The folder of a compiled model."""
    place, model = folder(), network()
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    x = torch.randn(16, 32)
    rarefy.save(rarefy.compile(model, [x, torch.randn(1, 32)], measure=False), place)
    return _files(place)


@cache
def selecting() -> Files:
    """The folder of a model whose activations are selected."""
    place, model = folder(), network()
    select_inputs(model[0], Threshold(torch.tensor(0.5), torch.rand(32)))
    select_hidden(model[0], TopK(5))
    select_inputs(model[2], TopK(7, torch.rand(48)))
    rarefy.save(model, place)
    return _files(place)


@cache
def shards(kind: str) -> Files:
    """A folder with an index; kind: safetensors or bin."""
    found: Files = {}
    where = {}
    for i, name in enumerate(tensors()):
        file = f"s{i % 2}.{kind}"
        where[name] = file
    for file in sorted(set(where.values())):
        held = {name: tensor for name, tensor in tensors().items() if where[name] == file}
        found[file] = serialized(held) if kind == "safetensors" else _saved(held)
    index = "model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json"
    found[index] = json.dumps({"metadata": {"total_size": 9}, "weight_map": where}).encode()
    return found


def _saved(held: dict[str, Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(held, file)
    return file.getvalue()
