"""A model as a graph for ONNX Runtime or OpenVINO: dense, its zeros exactly where they were."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import FileError, ModelError
from rarefy.engine.rivals.onnx_file import quiet, session
from rarefy.engine.rivals.outputs import Positional, first_tensor, relative_error, tensors_of
from rarefy.formats.atomic import replace_file
from rarefy.formats.container import Contents
from rarefy.formats.folder import read_contents
from rarefy.formats.onnx_sparse import make_sparse
from rarefy.recipes.convert import Conversion, Options, conversion, weights_of
from rarefy.recipes.convert_scaled import widened
from rarefy.recipes.store import load
from rarefy.recipes.store_carry import carry_companions
from rarefy.recipes.store_state import fill

WORST = 1e-4
"""Largest difference from torch, relative to the largest output, that a written graph may have."""
_ONE_FILE = 2**31 - 2**24  # bytes of weights that fit into one protobuf
_ROWS, _TOKENS = 2, 8  # of the example: the graph takes any number of both


def to_onnx(source: Path, target: Path, options: Options) -> Conversion:
    """`model.onnx`, of any batch size and length, checked against torch by ONNX Runtime."""
    _needs("onnx", "onnxscript", "onnxruntime")
    model, batch = text_model(source, options)
    target.mkdir(parents=True, exist_ok=True)
    path = target / "model.onnx"
    if sum(t.nbytes for t in model.state_dict().values()) < _ONE_FILE:
        replace_file(path, lambda aside: export_onnx(model, batch, aside))
    else:
        export_onnx(model, batch, path)  # its weights lie in a second file beside it
    sparse = make_sparse(path) if options.sparse_initializers else {}
    worst = check(session(path)(batch), model, batch, "ONNX Runtime")
    files = [file.name for file in target.glob("model.onnx*")] + carry_companions(source, target)
    notes = (f"ONNX Runtime gives torch's output to {worst:.1e}", *_widened(source))
    return conversion("onnx", target, files, sparse, notes)


def to_openvino(source: Path, target: Path, options: Options) -> Conversion:
    """`openvino_model.xml` and `.bin` in float32 (not silently compressed to float16), checked against torch."""
    _needs("openvino")
    import openvino

    model, batch = text_model(source, options)
    target.mkdir(parents=True, exist_ok=True)
    with quiet(), torch.no_grad():
        converted = openvino.convert_model(Positional(model, batch), example_input=tuple(tensors_of(batch).values()))
        for port, name in zip(converted.inputs, tensors_of(batch), strict=True):
            port.get_tensor().set_names({name})
        openvino.save_model(converted, str(target / "openvino_model.xml"), compress_to_fp16=False)
        run = openvino.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        output = torch.from_numpy(run([t.numpy() for t in tensors_of(batch).values()])[0])
    worst = check(output, model, batch, "OpenVINO")
    files = ["openvino_model.xml", "openvino_model.bin", *carry_companions(source, target)]
    notes = (f"OpenVINO gives torch's output to {worst:.1e}", *_widened(source))
    return conversion("openvino", target, files, notes=notes)


def export_onnx(model: nn.Module, batch: Any, path: Path) -> None:
    """Writes any model for batches like this one: first axes of the inputs are free, and second ones of token ids.

    Weights above 2 GB together lie in `<name>.data` beside the file.
    """
    tensors = tensors_of(batch)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    shapes = tuple({axis: free[axis] for axis in free if axis < min(t.dim(), 2)} for t in tensors.values())
    if not all(t.dtype == torch.int64 for t in tensors.values()):
        shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in tensors)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            Positional(model, batch), tuple(tensors.values()), dynamo=True, verbose=False,
            input_names=list(tensors), output_names=["output"], dynamic_shapes=(shapes,),
        )  # fmt: skip
        assert program is not None
        program.save(str(path))


def check(output: Tensor, model: nn.Module, batch: Any, who: str) -> float:
    """How far another program's output is from torch's. Raises ModelError above `WORST`."""
    with torch.inference_mode():
        expected = first_tensor(model(**batch) if isinstance(batch, Mapping) else model(batch))
    worst = relative_error(output, expected)
    if not worst <= WORST:
        raise ModelError(f"convert: {who} differs from torch by {worst:.1e} of the largest output; not to be trusted")
    return worst


def text_model(source: Path, options: Options) -> tuple[nn.Module, dict[str, Tensor]]:
    """The dense model of a Hugging Face folder of text, and an example of its input."""
    model = load(source, compiled=False)
    if options.adapter is not None:
        fill(model, Contents(weights_of(read_contents(source, mapped=True), options), {}, own=False), source)
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if not isinstance(size, int):
        raise ModelError(
            f"convert: {source} is no model of text with a vocabulary; in Python, load it and give an example: "
            "rarefy.recipes.convert_graph.export_onnx(model, batch, path)"
        )
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    ids = torch.randint(0, size, (_ROWS, _TOKENS), generator=torch.Generator().manual_seed(0))
    return model.eval().float(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _widened(source: Path) -> tuple[str, ...]:
    return widened(read_contents(source, mapped=True).tensors, torch.float32)


def _needs(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise FileError(f"convert: {package} is not installed; pip install {' '.join(packages)}") from error
