"""Hostile folders of Hugging Face models, by every door: `load`, `prune_folder`, `convert`, `from_pretrained`, `carry`.

transformers and what it stands on check much by themselves: what they raise is theirs, if nothing of ours is on the
way.
"""

import json
import os
import random
import shutil
import struct
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import corpus
import models
import torch
from bounds import bounded
from damage import NUMBERS, WORDS, damaged, lied, text, value

import rarefy
from rarefy.core import errors
from rarefy.core.errors import RarefyError
from rarefy.formats.shards import open_shards
from rarefy.recipes.convert import convert
from rarefy.recipes.hf_quantizer import is_ours
from rarefy.recipes.skeleton import skeleton
from rarefy.recipes.store_carry import LARGEST, carry_companions

_FOLDER = corpus.folder()
_MODEL = 2 * 2**20
"""Bytes that transformers takes to build a model of any size: its config, the tables of classes, the modules."""
_THEIRS = 256 * 2**20  # where the config names no layout of ours: what transformers builds is its own affair
_WRITING = 2**20  # a buffer of the library that writes
_KINDS = ("bert", "llama", "gpt2", "t5", "vit", "mistral", "opt", "whisper", "clip", "qwen2", "x", "auto", "Bert")
_CLASSES = (
    "BertModel",
    "BertForMaskedLM",
    "LlamaForCausalLM",
    "GPT2LMHeadModel",
    "AutoModel",
    "modeling_x.Model",
    "os",
)
_CODE = b"import antigravity, os\nos.system('true')\nopen('was-here', 'w')\nclass Model: pass\nclass Config: pass\n"
_MAP = {
    "AutoConfig": "modeling_x.Config",
    "AutoModel": "modeling_x.Model",
    "AutoModelForMaskedLM": "a/b--modeling_x.Model",
    "AutoTokenizer": ["modeling_x.Model", "modeling_x.Model"],
}


def case(rng: random.Random) -> None:
    warnings.simplefilter("ignore")
    _quiet()
    rng.choices((_load, _prune, _convert, _hook, _carry), (4, 3, 3, 3, 2))[0](rng)


@cache
def _quiet() -> None:
    import transformers

    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    rarefy.enable_transformers()


def _clean(name: str) -> Path:
    place = _FOLDER / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return place


def _config(said: dict[str, Any], rng: random.Random) -> bytes:
    """A config.json that asks for other sizes, classes, or code."""
    said = json.loads(json.dumps(said))
    for _ in range(rng.choice((1, 1, 2))):
        kind = rng.randrange(7)
        if kind == 0:
            said[rng.choice([key for key, held in said.items() if type(held) is int])] = rng.choice(NUMBERS)
        elif kind == 1:
            said |= {"auto_map": _MAP, "custom_pipelines": _MAP, "trust_remote_code": True}
        elif kind == 2:
            said["model_type"] = rng.choice(_KINDS)
        elif kind == 3:
            said["architectures"] = rng.choice(([rng.choice(_CLASSES)], rng.choice(_CLASSES), list(_CLASSES), []))
        elif kind == 4:
            said[rng.choice(("_attn_implementation", "dtype", "torch_dtype", "hidden_act"))] = rng.choice(WORDS)
        elif kind == 5:
            said[rng.choice(list(said))] = value(rng)
        else:
            return text(lied(said, rng), rng)
    return json.dumps(said).encode("utf-8", "surrogatepass")


def _quantised(said: dict[str, Any], rng: random.Random) -> bytes:
    """A config.json that says something else of how the weights are stored."""
    key = next((key for key in ("quantization_config", "compression_config") if key in said), "quantization_config")
    block = said.get(key, {"quant_method": "rarefy"})
    other = rng.choice(("quantization_config", "compression_config"))
    if rng.random() < 0.3:
        return json.dumps({**said, other: value(rng)}).encode("utf-8", "surrogatepass")
    method = {"quant_method": rng.choice(("rarefy", "compressed-tensors", *WORDS))} if rng.random() < 0.3 else {}
    return json.dumps({**said, other: {**lied(block, rng), **method}}).encode("utf-8", "surrogatepass")


def _weights(data: bytes, rng: random.Random) -> bytes:
    """Damaged bytes, a header that lies, or a manifest that does and is signed anew."""
    if rng.random() < 0.4:
        return damaged(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.get("__metadata__", {})
    if "rarefy.manifest" in metadata and rng.random() < 0.7:
        said = json.loads(metadata["rarefy.manifest"])
        maps = {name: held for name, held in said.items() if name != "digests"}
        maps.setdefault("resized", {"bert.pooler.dense.weight": [16, 16]})
        maps.setdefault("counts", {"bert": {"hidden_size": 16}, "": {"vocab_size": 50}})
        header["__metadata__"] = _signed_as(metadata, lied(maps, rng) | {"digests": said["digests"]})
    else:
        header = lied(header, rng)
    encoded = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + rest


def _signed_as(metadata: dict[str, str], said: dict[str, Any]) -> dict[str, str]:
    import hashlib

    signed = json.dumps(said)
    digest = hashlib.sha256(signed.encode("utf-8", "surrogatepass")).hexdigest()
    return {**metadata, "rarefy.manifest": signed, "rarefy.digest": digest}


def _hostile(
    rng: random.Random, name: str, config: Callable[[dict[str, Any], random.Random], bytes]
) -> tuple[Path, int]:
    """(a folder of which one file is hostile, mostly config.json or the weights; bytes of all)"""
    files = dict(models.folders()[name])
    lying = rng.choices(("config.json", "weights", "any"), (5, 4, 1))[0]
    if lying == "config.json":
        files[lying] = config(json.loads(files[lying]), rng)
    elif lying == "weights":
        file = rng.choice([file for file in files if file.endswith(".safetensors")])
        files[file] = _weights(files[file], rng)
    else:
        file = rng.choice(list(files))
        as_json = file.endswith(".json") and rng.random() < 0.8
        files[file] = text(lied(json.loads(files[file]), rng), rng) if as_json else damaged(files[file], rng)
    place = _clean("model")
    files["modeling_x.py"] = _CODE
    for file, data in files.items():
        (place / file).write_bytes(data)
    return place, sum(map(len, files.values()))


def _any(rng: random.Random) -> str:
    return rng.choice(list(models.folders()))


def _load(rng: random.Random) -> None:
    place, size = _hostile(rng, _any(rng), _config)
    model = bounded(lambda: rarefy.load(place), size, more=_MODEL)
    if model is None or model.config.model_type not in ("bert", "llama"):
        return
    assert type(model).__module__.startswith("transformers.models.")
    ids = torch.randint(0, 9, (1, 3))
    try:
        with torch.inference_mode():
            model(input_ids=ids)
    except (
        RuntimeError,
        IndexError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        AssertionError,
        ZeroDivisionError,
    ):
        pass  # a config of transformers that builds but does not run: the values in it are the user's affair


def _prune(rng: random.Random) -> None:
    place, size = _hostile(rng, _any(rng) if rng.random() < 0.4 else rng.choice(("bert hf", "llama hf")), _config)

    def opened() -> Any:
        shards = open_shards(place)
        return None if shards is None else skeleton(place, shards, torch.float32)

    bounded(opened, size, more=_MODEL)


def _convert(rng: random.Random) -> None:
    name = _any(rng)
    place, size = _hostile(rng, name, rng.choice((_config, _quantised)))
    targets = ["hf", "bitmask", "bitmask-24", *(["gguf-dense"] if name.startswith("llama") else [])]
    to, out = rng.choice(targets), _clean("converted")
    bounded(lambda: convert(place, out, to), 3 * size, more=_MODEL if to == "gguf-dense" else _WRITING)
    for file in _FOLDER.rglob("*"):
        assert file.parts[len(_FOLDER.parts)] in ("model", "converted", "source", "secret"), file


def _hook(rng: random.Random) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    name = _any(rng)
    place, size = _hostile(rng, name, _quantised)
    door = AutoModelForCausalLM if name.startswith("llama") else AutoModelForMaskedLM
    said = _said(place)
    if any("layer" in key and isinstance(value, int | float) and value > 64 for key, value in said.items()):
        return  # which transformers builds, for as long as that takes, before it asks any reader of ours

    def read() -> Any:
        try:
            return door.from_pretrained(place, local_files_only=True)
        except RarefyError:
            raise
        except Exception as error:
            _require_theirs(error)
            return None

    blocks = (said.get("quantization_config"), said.get("compression_config"))
    ours = any(isinstance(block, dict) and is_ours(block) for block in blocks)
    bounded(read, size, more=_MODEL if ours else _THEIRS)


def _said(place: Path) -> dict[str, Any]:
    try:
        said = json.loads((place / "config.json").read_bytes())
        return said if isinstance(said, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


_OURS = str(Path(errors.__file__).parents[1]) + os.sep
_PASSED = ("choose_for_both", "from_dict")  # functions of ours that transformers' own are called through


def _require_theirs(error: BaseException) -> None:
    """Raises an error again that went through code of ours."""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        here = code.co_filename.startswith(_OURS)
        ours = here and (code.co_name not in _PASSED or trace.tb_next is None)
        if ours:
            raise error
        trace = trace.tb_next


_COMPANIONS = (
    *("tokenizer.json", "vocab.txt", "README.md", "LICENSE", "1_Pooling/config.json", "merges.txt", "NOTICE"),
    *("chat_template.jinja", "2_Dense/model.safetensors", "tokenizer.model", "tokenizer_x.py", "x.bin"),
)


def _carry(rng: random.Random) -> None:
    """Links, folders, pipes and huge files in the place of companions."""
    source, target = _clean("source"), _clean("converted")
    secret = _FOLDER / "secret"
    secret.write_bytes(b"of the user")
    size = 0
    for _ in range(rng.randrange(1, 5)):
        path = source / rng.choice(_COMPANIONS)
        path.parent.mkdir(exist_ok=True)
        if os.path.lexists(path):
            continue
        kind, data = rng.randrange(8), bytes(rng.choice((0, 1, 1000, 10**5)))
        if kind == 0:
            path.symlink_to(rng.choice((secret, "/etc/hostname", "../secret", "/dev/zero", "/proc/self/environ", path)))
        elif kind == 1:
            path.mkdir()
        elif kind == 2:
            os.mkfifo(path)
        elif kind == 3:
            with path.open("wb") as file:
                file.truncate(rng.choice((LARGEST, LARGEST + 1, 2**40)))
        elif kind == 4 and path.parent == source:
            path.symlink_to(rng.choice(_COMPANIONS))
        else:
            path.write_bytes(data)
            size += len(data)
    if rng.random() < 0.2 and not (source / "3_Dense").exists():
        (source / "3_Dense").symlink_to(rng.choice((_FOLDER, "/etc", source)))
    names = bounded(lambda: carry_companions(source, target), size)
    for name in names or ():
        assert (target / name).resolve().is_relative_to(target.resolve())
    for path in target.rglob("*"):
        assert not path.is_symlink() and path.suffix != ".py"
        assert not path.is_file() or path.read_bytes() != b"of the user", f"{path} was copied from elsewhere"
