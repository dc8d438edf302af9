"""A model written as ONNX for one shape of input, for the rivals that read it."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rarefy.engine.rivals.outputs import Positional, tensors_of
from rarefy.engine.rivals.protocol import Ready, threads


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters talk a lot; what they say is no part of a measurement."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def export(model: nn.Module, batch: Any, path: Path) -> None:
    """Writes `model` for batches of exactly this shape."""
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            Positional(model, batch), tuple(tensors_of(batch).values()), dynamo=True, verbose=False
        )
        assert program is not None
        program.save(str(path))


def session(path: Path) -> Ready:
    """An ONNX Runtime session on `torch.get_num_threads()` threads with all graph optimisations (the default)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3
    opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names: Sequence[str] = [i.name for i in opened.get_inputs()]

    def run(given: Any) -> torch.Tensor:
        arrays = [tensor.numpy() for tensor in tensors_of(given).values()]
        return torch.from_numpy(opened.run(None, dict(zip(names, arrays, strict=True)))[0])

    return run
