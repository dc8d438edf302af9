"""ONNX Runtime: float32, and int8 weights with activations quantised on the fly."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rarefy.engine.rivals.onnx_file import export, quiet, session
from rarefy.engine.rivals.protocol import Ready, missing


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime, float32."""

    name: str = "onnxruntime"
    precision: str = "fp32"

    def available(self) -> str | None:
        return missing("onnx", "onnxscript", "onnxruntime")

    def prepare(self, model: nn.Module, batch: Any, calibration: Sequence[Any]) -> Ready:
        with tempfile.TemporaryDirectory() as folder:
            export(model, batch, Path(folder) / "model.onnx")
            return session(Path(folder) / "model.onnx")


@dataclass(frozen=True)
class OnnxRuntimeInt8:
    """ONNX Runtime, dynamic int8: no calibration, as its documentation advises for transformers."""

    name: str = "onnxruntime-int8"
    precision: str = "int8"

    def available(self) -> str | None:
        return missing("onnx", "onnxscript", "onnxruntime")

    def prepare(self, model: nn.Module, batch: Any, calibration: Sequence[Any]) -> Ready:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory() as folder:
            whole, small = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
            export(model, batch, whole)
            graph = onnx.load(whole)
            graph.graph.ClearField("value_info")  # the exporter's shapes of transposed weights stop the quantiser
            onnx.save(graph, whole)
            with quiet():
                quantize_dynamic(whole, small, weight_type=QuantType.QInt8)
            return session(small)
