"""Files of other programs that are damaged or lie: bitmask 2:4, masks, scales, adapters, and archives of torch.save."""

import json
import random
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from bounds import bounded
from files import _NUMBERS, _odd, _read_bounded
from safetensors.torch import save_file
from test_fuzz import cut, flip, lie

from rarefy.core.errors import RarefyError
from rarefy.core.quantized import quantize_weight
from rarefy.formats import codes, opcodes
from rarefy.formats.adapters import Delta, merge
from rarefy.formats.bitmask24 import Bitmask24
from rarefy.formats.packed import Packed
from rarefy.formats.semi_structured import ORDERS, from_pair, to_pair

_FOLDER = Path(tempfile.mkdtemp(prefix="rarefy-fuzz-layouts-"))
_BESIDE = ("weight_zero_point", "weight_g_idx", "weight_scale", "weight_packed", "meta", "weight")
_DENSE = 10**7  # entries; larger claims are refused or never made dense here


def case(rng: random.Random) -> None:
    rng.choice((_stored, _stored, _bytes, _archive, _program, _adapter, _pair, _integers))(rng)


def _two_of_four(rng: random.Random) -> torch.Tensor:
    rows, groups = rng.choice((0, 1, 3, 8)), rng.choice((0, 1, 2, 5, 16))
    generator = torch.Generator().manual_seed(rng.getrandbits(30))
    kept = torch.rand(rows, groups, 4, generator=generator).argsort(-1) < rng.choice((0, 1, 2))
    return (torch.randn(rows, groups, 4, generator=generator) * kept).reshape(rows, 4 * groups) + 0.0


def _good(rng: random.Random) -> tuple[dict[str, torch.Tensor], str, torch.Tensor]:
    """(stored tensors, the name that they stand for, what it is)"""
    weight = _two_of_four(rng)
    match rng.randrange(4):
        case 0:
            parts = Bitmask24().pack(Packed.from_dense(weight).matrix)
            return {f"a.{part}": tensor for part, tensor in parts.items()}, "a.weight", weight
        case 1:
            mask = weight.ne(0).to(rng.choice((torch.bool, torch.uint8, torch.float32)))
            return {"a.weight_orig": weight + (mask.float() - 1), "a.weight_mask": mask}, "a.weight", weight
        case 2:
            mask = {"__nncf_hooks.post_hooks.a:weight__0.0.binary_mask": weight.ne(0)}
            return {"a.weight": weight.contiguous(), **mask}, "a.weight", weight
        case _:
            codes = weight.mul(20).clamp(-100, 100).to(torch.int8)
            return {"a.weight": codes, "a.weight_scale": torch.tensor([0.5])}, "a.weight", codes * 0.5


def _stored(rng: random.Random) -> None:
    """Tensors that each alone look possible."""
    stored, name, expected = _good(rng)
    damage = rng.choice((0, 1, 1, 2))
    for _ in range(damage):
        part = rng.choice(list(stored) or ["a.weight"])
        match rng.randrange(5):
            case 0:
                stored[part] = _odd(rng)
            case 1:
                stored.pop(part, None)
            case 2:
                stored["a.shape"] = torch.tensor([[rng.choice(_NUMBERS)] for _ in range(2)], dtype=torch.int64)
            case 3:
                extra = rng.choice(_BESIDE)
                stored[f"a.{extra}"] = _odd(rng)
            case _ if part in stored and stored[part].numel() and stored[part].dtype in (torch.uint8, torch.int64):
                stored[part] = stored[part].clone()
                stored[part].view(-1)[rng.randrange(stored[part].numel())] = rng.randrange(128)
    path = _FOLDER / ("m.safetensors" if rng.random() < 0.7 else "m.pt")
    whole = {key: tensor.contiguous() for key, tensor in stored.items()}
    if not whole:
        return
    save_file(whole, path) if path.suffix == ".safetensors" else torch.save(whole, path)
    found = _read_bounded(path)
    if not damage:
        assert torch.equal(_dense(found[name]), expected)
    _use(found)


def _use(found: Any) -> None:
    for entry in (found or {}).values():
        try:
            size = 1
            for n in entry.shape:
                size *= n
            if size < _DENSE:
                _dense(entry)
        except RarefyError as error:
            assert str(error)


def _dense(entry: Any) -> torch.Tensor:
    return entry if isinstance(entry, torch.Tensor) else entry.to_dense()


def _archived(rng: random.Random, path: Path) -> None:
    weight = _two_of_four(rng)
    layouts = [weight, weight.to_sparse_coo(), weight.to_sparse_csr(), weight.to_sparse_csc(), weight.half().t()]
    said: Any = {"a.weight": rng.choice(layouts), "b": weight[:1], "epoch": 3}
    torch.save({"state_dict": said, "optimizer": {"state": {0: [said]}}} if rng.random() < 0.3 else said, path)


def _bytes(rng: random.Random) -> None:
    path = _FOLDER / "b.pt"
    if rng.random() < 0.5:
        path = _FOLDER / "b.safetensors"
        stored = {key: tensor.contiguous() for key, tensor in _good(rng)[0].items()}
        save_file(stored, path)
    else:
        _archived(rng, path)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 8))):
        try:
            if path.suffix == ".pt":
                data = _flipped(data, rng) if rng.random() < 0.8 else data[: rng.randrange(len(data))]
            else:
                data = rng.choice((flip, cut, lie))(data, rng)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, UnicodeError, struct.error):
            break
    path.write_bytes(data)
    _use(_read_bounded(path))


def _flipped(data: bytearray, rng: random.Random) -> bytearray:
    """Mostly near the ends, where the archive's own numbers and the pickle lie."""
    where = rng.choice((range(len(data)), range(min(len(data), 900)), range(max(0, len(data) - 900), len(data))))
    place = rng.choice(where)
    data[place] = rng.choice((data[place] ^ (1 << rng.randrange(8)), 0, 255))
    return data


def _archive(rng: random.Random) -> None:
    """An archive of torch.save with other records or another program in it."""
    path = _FOLDER / "z.pt"
    _archived(rng, path)
    with zipfile.ZipFile(path) as old:
        records = {info.filename: old.read(info) for info in old.infolist()}
    name = rng.choice(list(records))
    match rng.randrange(6):
        case 0:
            records[name] = bytes(rng.randrange(200))
        case 1:
            records.pop(name)
        case 2:
            records[rng.choice(("../x", "a/data/0", "a/data.pkl", "/", "a/" + "x" * 9999))] = b"1"
        case 3:
            pickled = next(n for n in records if n.endswith("data.pkl"))
            records[pickled] = bytes(_flipped(bytearray(records[pickled]), rng))
        case 4:
            records[name] = records[name] * rng.choice((0, 2, 1000))
        case _:
            pass
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w", kind) as new:
        for record, data in records.items():
            info = zipfile.ZipInfo(record)
            info.compress_type = kind
            pad = -(new.fp.tell() + 30 + len(record.encode()) + 4) % 64
            info.extra = struct.pack("<2H", 0x4246, pad) + bytes(pad) if rng.random() < 0.9 else b""
            new.writestr(info, data)
    _use(_read_bounded(path))


def _program(rng: random.Random) -> None:
    """Any bytes, and many of one instruction."""
    instructions = b"()]}NtsuaeRb.Q\x85\x86\x87\x88\x89hqrjK\x05J\xff\xff\xff\x7f\x8a\x8b\x94\x93X"
    start = b"\x80\x02" if rng.random() < 0.9 else b""
    if rng.random() < 0.02:
        body = bytes([rng.choice(instructions)]) * rng.choice((1000, 10**5, 10**6))
    else:
        body = bytes(rng.choice(instructions) for _ in range(rng.randrange(60)))
    try:
        opcodes.follow(start + body + b".")
    except RarefyError as error:
        assert str(error)


def _adapter(rng: random.Random) -> None:
    folder = _FOLDER / "adapter"
    folder.mkdir(exist_ok=True)
    root, k = "base_model.model.a", rng.choice((0, 1, 3))
    rows = torch.tensor([[rng.choice((0, 1, 2, -1, 7, 2**31 - 1)) for _ in range(k)] for _ in range(2)]).reshape(2, k)
    names = rng.choice((("shira_weight", "shira_indices"), ("supertuning_values", "supertuning_indices")))
    index = rows.to(torch.int32) if names[0] == "shira_weight" else rows[0].to(torch.int32)
    stored = {f"{root}.{names[0]}": torch.ones(k), f"{root}.{names[1]}": index}
    for _ in range(rng.choice((0, 1))):
        lying = (*stored, f"{root}.weight", f"{root}.supertuning_lora_A.weight", f"{root}.supertuning_lora_B.weight")
        stored[rng.choice(lying)] = _odd(rng)
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / "adapter_model.safetensors")
    kinds: Any = ("SHIRA", "SUPERTUNING", "LORA", None, 5, "os.system")
    alphas: Any = (1, -1.5, 10**400, "x", None)
    said = {"peft_type": rng.choice(kinds), "lora_alpha": rng.choice(alphas), "select_top": rng.choice((True, 3))}
    (folder / "adapter_config.json").write_text(rng.choice((json.dumps(said), "{}", "[]", "{")))
    found = _read_bounded(folder / "adapter_model.safetensors", folder)
    if found is not None and any(isinstance(entry, Delta) for entry in found.values()):
        try:
            merge({"a.weight": torch.randn(rng.choice((1, 3)), 4)}, found)
        except RarefyError as error:
            assert str(error)


def _pair(rng: random.Random) -> None:
    order = rng.choice(ORDERS)
    values, meta = to_pair(torch.zeros(64, 64, dtype=rng.choice((torch.float16, torch.float32, torch.int8))), order)
    lies = (values, meta, _odd(rng), meta.reshape(-1)[:7], torch.randint(-(2**15), 2**15, meta.shape).to(meta.dtype))
    try:
        from_pair(rng.choice(lies), rng.choice(lies), rng.choice(ORDERS))
    except RarefyError as error:
        assert str(error)


def _integers(rng: random.Random) -> None:
    """The parts of a rounded weight, with lies that each alone looks possible."""
    bits, groups = rng.choice((4, 8)), rng.choice((1, 2, 4))
    weight = _two_of_four(rng)
    weight = weight if weight.shape[1] else torch.zeros(2, 4)
    parts = codes.pack(codes.Codes(tuple(weight.shape), quantize_weight(weight, bits, weight.shape[1] // groups)))
    damage = rng.choice((0, 1, 1, 2))
    for _ in range(damage):
        name = rng.choice(list(parts))
        match rng.randrange(3):
            case 0:
                parts[name] = _odd(rng)
            case 1:
                parts["form"] = parts["form"].clone()
                if parts["form"].numel() and parts["form"].dtype == torch.int64:
                    parts["form"].view(-1)[rng.randrange(parts["form"].numel())] = rng.choice((*_NUMBERS, 2, 4, 16))
            case _:
                rows = rng.choice((2**10, 2**14))
                lying = torch.zeros(rows, 2**6, dtype=torch.uint8)  # stands for 2^13 integers a row
                form = torch.tensor([8, 16, 1, 0, 0, rows, rows, 2**13])
                parts = {"codes": lying[:0, 0], "scale": torch.ones(0), "present": lying, "form": form}
    size = sum(tensor.nbytes for tensor in parts.values())
    found = bounded(lambda: codes.unpack(parts, "fc.weight"), size)
    if found is not None and damage and found.source.rows * found.source.width < _DENSE:
        _use({"a": found})
    if found is not None and not damage:
        assert torch.equal(found.quantized.dequantize(), found.to_dense())
