"""OpenVINO: float32 (not silently bfloat16), and int8 by NNCF's post-training quantisation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rarefy.engine.rivals.onnx_file import quiet
from rarefy.engine.rivals.outputs import Positional, tensors_of
from rarefy.engine.rivals.protocol import Ready, missing, threads

_CALIBRATION_BATCHES = 16


def _convert(model: nn.Module, batch: Any) -> Any:
    """An OpenVINO model of exactly this shape of input."""
    import openvino

    tensors = tuple(tensors_of(batch).values())
    with quiet(), torch.no_grad():
        converted = openvino.convert_model(Positional(model, batch), example_input=tensors)
    shapes = {port: openvino.PartialShape(list(t.shape)) for port, t in zip(converted.inputs, tensors, strict=True)}
    converted.reshape(shapes)
    return converted


def _compiled(converted: Any, **hints: str) -> Ready:
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads()), **hints}
    compiled = openvino.Core().compile_model(converted, "CPU", options)

    def run(given: Any) -> torch.Tensor:
        arrays = [tensor.numpy() for tensor in tensors_of(given).values()]
        return torch.from_numpy(compiled(arrays)[0])

    return run


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO, float32."""

    name: str = "openvino"
    precision: str = "fp32"

    def available(self) -> str | None:
        return missing("openvino")

    def prepare(self, model: nn.Module, batch: Any, calibration: Sequence[Any]) -> Ready:
        return _compiled(_convert(model, batch), INFERENCE_PRECISION_HINT="f32")


@dataclass(frozen=True)
class OpenVinoInt8:
    """OpenVINO with int8 weights and activations, calibrated by NNCF."""

    name: str = "openvino-int8"
    precision: str = "int8"

    def available(self) -> str | None:
        return missing("openvino", "nncf")

    def prepare(self, model: nn.Module, batch: Any, calibration: Sequence[Any]) -> Ready:
        import nncf

        shape = [t.shape for t in tensors_of(batch).values()]
        fitting = [b for b in calibration if [t.shape for t in tensors_of(b).values()] == shape]
        seen = (fitting or [batch])[:_CALIBRATION_BATCHES]
        converted = _convert(model, batch)
        with quiet():
            dataset = nncf.Dataset(seen, lambda b: [t.numpy() for t in tensors_of(b).values()])
            kind = None if any(isinstance(m, nn.Conv2d) for m in model.modules()) else nncf.ModelType.TRANSFORMER
            quantised = nncf.quantize(converted, dataset, subset_size=len(seen), model_type=kind)
        return _compiled(quantised)
