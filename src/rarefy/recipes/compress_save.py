"""The sparse model saved, reloaded and compared with what was saved."""

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rarefy.core.errors import FileError
from rarefy.formats.folder import read_contents
from rarefy.recipes.compress_state import State
from rarefy.recipes.stages import Stages
from rarefy.recipes.store import load, save
from rarefy.recipes.task import Task

_SAME = 1e-6  # largest difference between the outputs of the saved and of the reloaded model


def stored(task: Task, folder: Path, stages: Stages) -> tuple[nn.Module, dict[str, Any]]:
    """Saves the model, reloads it, and checks that both give the same outputs; (reloaded, what was written)."""
    with stages.stage("saving and reloading", 3) as advance:
        said = save(task.model, folder, carry=task.carry)
        advance(1)
        reloaded = _reloaded(task, folder)
        advance(1)
        example = task.examples[0]
        far = _difference(task.model, reloaded, example)
        advance(1)
    if not far <= _SAME:
        raise FileError(f"{folder}: the reloaded model's outputs differ by {far:.1e}; the file was not kept as written")
    return reloaded, {**said.to_dict(), "reload_difference": far}


def _reloaded(task: Task, folder: Path) -> nn.Module:
    blank = None if task.carry is not None else copy.deepcopy(task.model)
    return (load(folder) if blank is None else load(folder, model=_forget(blank))).eval()


def stored_once(task: Task, folder: Path, stages: Stages, state: State) -> tuple[nn.Module, dict[str, Any]]:
    """`stored`; if an earlier process has saved this model and it is still there, it is only loaded."""
    with suppress(FileError):
        if "file" in state.done and state.done["file"]["fingerprint"] == _fingerprint(folder):
            return _reloaded(task, folder), state.done["file"]["said"]
    reloaded, said = stored(task, folder, stages)
    state.commit("file", {"said": said, "fingerprint": _fingerprint(folder)})
    return reloaded, said


def _fingerprint(folder: Path) -> str | None:
    """Of the saved weights, whatever belongs to them checked. Raises FileError."""
    return read_contents(folder, mapped=True).fingerprint


def _forget(model: nn.Module) -> nn.Module:
    """The model with other weights, so that a reload which fills nothing in cannot pass for a good one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.123)
    return model


def _difference(a: nn.Module, b: nn.Module, example: Any) -> float:
    from rarefy.calibration.batches import call_model
    from rarefy.engine.rivals.outputs import first_tensor

    with torch.inference_mode():
        outs = [first_tensor(call_model(m.eval(), example, 0)) for m in (a, b)]
    return float((outs[0] - outs[1]).abs().max())
