"""Saving and restoring a run, bit for bit, and refusing what does not belong to it."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rarefy.core.bits import pack_bits, unpack_bits
from rarefy.core.errors import ModelError
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run
from rarefy.training.state import WeightState

VERSION = 1

_SETTING = re.compile(r"\w+=[^=(),]+(?=[,)])")  # a name and its plain value in a method's `repr`


def identity(name: str, method: SparseMethod, run: Run) -> dict[str, Any]:
    """What two runs must have in common for one to go on from the other's state."""
    return {
        "version": VERSION,
        "method": name,
        "settings": repr(method),
        "density": run.density,
        "total_steps": run.total_steps,
        "weights": {s.name: [*s.shape, str(s.pattern), s.asked] for s in run.states},
    }


def save(name: str, method: SparseMethod, run: Run) -> dict[str, Any]:
    return {
        "identity": identity(name, method, run),
        "step": run.step,
        "generator": run.generator.get_state(),
        "memory": {key: _copy(value) for key, value in run.memory.items()},
        "weights": {state.name: _save_weight(state) for state in run.states},
        "packed": [state.name for state in run.states if state.packed is not None],
        "young": {key: [index.clone(), age.clone()] for key, (index, age) in run.young.items()},
    }


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _save_weight(state: WeightState) -> dict[str, Any]:
    return {
        "density": state.density,
        "first_sd": state.first_sd,
        "mask": pack_bits(state.mask),
        "explored": None if state.explored is None else pack_bits(state.explored),
        "master": None if state.master is None else state.master.clone(),
        "extra": {key: value.clone() for key, value in state.extra.items()},
    }


def load(saved: Mapping[str, Any], name: str, method: SparseMethod, run: Run) -> None:
    """Restores a run; nothing is changed where the state is another's."""
    if not isinstance(saved, Mapping) or "identity" not in saved:
        raise ModelError("load_state_dict: this is no state of a sparse trainer; give what trainer.state_dict() gave")
    _require_same(saved["identity"], identity(name, method, run))
    if why := _unsound(saved, run):
        raise ModelError(f"load_state_dict: the state is damaged: {why}; go on from an earlier checkpoint")
    masks = {s.name: unpack_bits(saved["weights"][s.name]["mask"], s.shape[1]) for s in run.states}
    for state in run.states:
        if saved["weights"][state.name]["master"] is None and bool((state.value() * ~masks[state.name]).any()):
            raise ModelError(
                f"load_state_dict: {state.name} has weights where the saved mask has none; load the model's state of "
                "the same checkpoint first, then the trainer's"
            )
    run.step = int(saved["step"])
    run.generator.set_state(saved["generator"].clone())  # torch reads views with an offset wrongly
    run.memory = {key: _copy(value) for key, value in saved["memory"].items()}
    run.young = {key: (index.clone(), age.clone()) for key, (index, age) in saved["young"].items()}
    run.idle = frozenset(state.name for state in run.states if not state.weight.parameter.requires_grad)
    for state in run.states:
        _load_weight(state, saved["weights"][state.name], masks[state.name])
        state.step = run.step
        if state.master is None:
            continue
        view = method.transform.view(state.master, state)  # sets what goes back through the layer, too
        if state.name in run.idle:
            state.know()  # what it showed when it was frozen is in the model's state
        else:
            state.show(view)


def _unsound(saved: Mapping[str, Any], run: Run) -> str | None:
    """Why the parts of a state cannot be what `save` gave of this run, None if they can."""
    if type(saved.get("step")) is not int or saved["step"] < 0:
        return "its step is no count"
    if not _is_tensor(saved.get("generator"), run.generator.get_state()):
        return "its generator has another state"
    if not all(isinstance(saved.get(key), dict) for key in ("memory", "weights", "young")):
        return "a part is missing"
    if not all(_are_two(held) for held in saved["young"].values()) or not saved["young"].keys() <= _names(run):
        return "its young weights are no places and ages"
    packed = saved.get("packed", [])
    if not isinstance(packed, list) or not all(isinstance(name, str) for name in packed):
        return "what was packed has no names"
    measured = saved.get("measured", {})
    if not isinstance(measured, dict) or not all(_are_sizes(held) for held in measured.values()):
        return "what was measured has no sizes"
    wrong = [s.name for s in run.states if not _is_weight(saved["weights"].get(s.name), s)]
    return f"{wrong[0]!r} is stored otherwise than it is here" if wrong else None


def _names(run: Run) -> set[str]:
    return {state.name for state in run.states}


def _are_sizes(held: Any) -> bool:
    return isinstance(held, list) and len(held) > 1 and all(type(number) is int for number in held)


def _are_two(held: Any) -> bool:
    """Places and ages, as many of each."""
    if not isinstance(held, list | tuple) or len(held) != 2:
        return False
    return all(isinstance(part, Tensor) and part.dim() == 1 and len(part) == len(held[0]) for part in held)


def _is_tensor(held: Any, like: Tensor) -> bool:
    return isinstance(held, Tensor) and held.dtype == like.dtype and held.shape == like.shape


def _is_weight(held: Any, state: WeightState) -> bool:
    if not isinstance(held, dict) or not {"density", "first_sd", "mask", "explored", "master", "extra"} <= held.keys():
        return False
    bits = pack_bits(state.mask)
    master = held["master"] is None if state.master is None else _is_tensor(held["master"], state.master)
    extra = isinstance(held["extra"], dict) and all(isinstance(value, Tensor) for value in held["extra"].values())
    numbers = all(isinstance(held[key], int | float) for key in ("density", "first_sd"))
    explored = held["explored"] is None or _is_tensor(held["explored"], bits)
    return master and extra and numbers and explored and _is_tensor(held["mask"], bits)


def _load_weight(state: WeightState, saved: Mapping[str, Any], mask: Tensor) -> None:
    state.mask, state.density, state.first_sd = mask, saved["density"], saved["first_sd"]
    if saved["explored"] is not None:
        state.explored = unpack_bits(saved["explored"], state.shape[1])
    if saved["master"] is not None:
        state.master = saved["master"].clone()
    state.extra = {key: value.clone() for key, value in saved["extra"].items()}


def _require_same(saved: Any, here: Mapping[str, Any]) -> None:
    if not isinstance(saved, dict) or not _is_plain(saved):
        raise ModelError("load_state_dict: the state does not say of which run it is; go on from an earlier checkpoint")
    for key, mine in here.items():
        theirs = saved.get(key)
        if theirs == mine:
            continue
        if isinstance(mine, dict) and isinstance(theirs, dict):
            names = sorted(n for n in {*mine, *theirs} if mine.get(n) != theirs.get(n))
            shown = "; ".join(f"{n}: saved {theirs.get(n)}, here {mine.get(n)}" for n in names[:3])
            raise ModelError(
                f"load_state_dict: {len(names)} weights differ: {shown}; resume with the model that was saved: "
                "what it did not train sparse then, ignored or frozen when the trainer was made, is to be so again"
            )
        there, own = _apart(str(theirs), str(mine)) if key == "settings" else (repr(theirs), repr(mine))
        raise ModelError(
            f"load_state_dict: {key} differs: saved {there}, here {own}; make the trainer with the arguments of "
            "the run that was saved"
        )


def _apart(theirs: str, mine: str) -> tuple[str, str]:
    """Of two methods in words what only the one has, and only the other; all of them where that says nothing."""
    both = [[found.group() for found in _SETTING.finditer(text)] for text in (theirs, mine)]
    only = [[one for one in parts if parts.count(one) > other.count(one)] for parts, other in (both, both[::-1])]
    there, own = (", ".join(dict.fromkeys(parts)) for parts in only)
    return (there, own) if there and own else (theirs, mine)


def _is_plain(node: Any) -> bool:
    """Whether a tree holds texts and numbers alone, which can be compared."""
    if isinstance(node, dict):
        return all(isinstance(key, str) and _is_plain(value) for key, value in node.items())
    if isinstance(node, list | tuple):
        return all(map(_is_plain, node))
    return node is None or isinstance(node, str | int | float)
