"""Ways to damage bytes, and to lie in JSON: by chance and on purpose."""

import copy
import json
import random
import struct
from typing import Any

NUMBERS = (
    *(-1, 0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 40, 63, 64, 255, 256, 2**15, 2**16, 2**20, 2**24, 2**31 - 1, 2**31),
    *(2**32, 2**40, 2**47, 2**48, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**31), -(2**63), 10**30),
)
WORDS = (
    *("", "weight", "a.weight", "layer.weight", ".", "..", "../../x", "/etc/passwd", "a/../../b", "\0", "\ud800"),
    *("x" * 9999, "__metadata__", "F32", "I64", "U8", "BOOL", "F8_E4M3", "int8", "torch.float32", "0", "1", "-1"),
    *("antigravity", "this.s", "antigravity:geohash", "this--antigravity.webbrowser", "modeling_x.Model", "x.py"),
    *("threshold", "top-k", "input", "hidden", "rotation", "os.system", "__class__", "forward", "model.safetensors"),
)
_ODD = (None, True, False, 1.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]], [0], {"a": 1}, [None, "x"])


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to three accidents."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not data:
            return data
        data = rng.choice(_ACCIDENTS)(bytearray(data), rng)
    return data


def _place(data: bytearray, rng: random.Random) -> int:
    """Anywhere, mostly near an end: there the formats keep what they say of themselves."""
    near = min(len(data), 600)
    return rng.choice(
        (rng.randrange(len(data)), rng.randrange(near), rng.randrange(near), len(data) - 1 - rng.randrange(near))
    )


def _flip(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _put(data: bytearray, rng: random.Random) -> bytes:
    data[_place(data, rng)] = rng.choice((0, 1, 0x20, 0x22, 0x2C, 0x5B, 0x7B, 0x7D, 0x80, 0xFF))
    return bytes(data)


def _number(data: bytearray, rng: random.Random) -> bytes:
    place, value = _place(data, rng) // 8 * 8, rng.choice(NUMBERS) % 2**64
    size = rng.choice((2, 4, 8))
    data[place : place + size] = struct.pack("<Q", value)[:size]
    return bytes(data)


def _cut(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: rng.choice((_place(data, rng), rng.randrange(min(len(data), 40))))])


def _longer(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data) + rng.choice((bytes(rng.randrange(1, 99)), bytes(data[: rng.randrange(len(data))])))


def _moved(data: bytearray, rng: random.Random) -> bytes:
    """A piece put somewhere else, over what is there, between it, or gone."""
    begin = rng.randrange(len(data))
    piece = data[begin : begin + rng.choice((1, 8, 64, len(data)))]
    at = _place(data, rng)
    match rng.randrange(3):
        case 0:
            data[at : at + len(piece)] = piece
        case 1:
            data[at:at] = piece
        case _:
            del data[begin : begin + len(piece)]
    return bytes(data)


_ACCIDENTS = (_flip, _flip, _put, _number, _cut, _longer, _moved)


def lied(tree: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one to three entries replaced, removed, renamed or doubled, at any depth."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _lie(tree, rng)
    return tree


def _lie(node: Any, rng: random.Random) -> None:
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        child = node[key]
        if isinstance(child, dict | list) and child and rng.random() < 0.75:
            node = child
            continue
        _change(node, key, rng)
        return


def _change(node: Any, key: Any, rng: random.Random) -> None:
    kind = rng.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[rng.choice((*WORDS, *list(node)))] = node.pop(key)
    elif kind == 2:
        other = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node[key], node[other] = node[other], node[key]
    elif kind == 3 and isinstance(node, list):
        node.extend(node[: rng.randrange(4)])
    else:
        node[key] = value(rng)


def value(rng: random.Random) -> Any:
    odd = copy.deepcopy(rng.choice(_ODD))  # a lie may be lied about again
    return rng.choice((rng.choice(NUMBERS), rng.choice(NUMBERS), rng.choice(WORDS), odd))


def text(tree: Any, rng: random.Random) -> bytes:
    """JSON of a tree, sometimes with a key twice, in another encoding, deep, or behind a megabyte of nothing."""
    said = json.dumps(tree)
    kind = rng.random()
    if kind < 0.05 and isinstance(tree, dict) and tree:
        key = rng.choice(list(tree))
        said = f"{{{json.dumps(key)}: {json.dumps(value(rng))}, {said[1:]}"
    elif kind < 0.06:
        said = rng.choice(("[" * 10**5, '{"a":' * 10**5, " " * 10**6 + said, "1" * 10**5, '"' + "x" * 10**6))
    elif kind < 0.07:
        return said.encode(rng.choice(("utf-16", "utf-32")))
    elif kind < 0.08:
        said = rng.choice(("NaN", "-", "", "\0", "\ufeff" + said, "5", '"x"', "[]", "null"))
    return said.encode("utf-8", "surrogatepass")
