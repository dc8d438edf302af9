"""Models written for DeepSparse: ONNX of an operator set that it reads, and the arrays that it is timed on."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from harness import Sides
from torch import Tensor, nn

OPSET = 13  # the newest that it reads


def add(sides: Sides, name: str, model: nn.Module, inputs: Sequence[Tensor], scratch: Path) -> None:
    """The model as a side, in a process of its own."""
    file, arrays = scratch / f"{len(list(scratch.iterdir()))}.onnx", scratch / f"{len(list(scratch.iterdir()))}.npz"
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(model, tuple(inputs), str(file), opset_version=OPSET, dynamo=False)
    except Exception as error:
        sides.missing[name] = f"export: {type(error).__name__}: {error}".splitlines()[0][:200]
        return
    numpy.savez(arrays, **{f"input_{i}": x.numpy() for i, x in enumerate(inputs)})
    sides.peer(
        name, "deepsparse", "run_deepsparse.py", str(file), str(arrays), "--threads", str(torch.get_num_threads())
    )
