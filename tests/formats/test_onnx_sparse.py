"""Sparse initializers: the same numbers in fewer bytes, and only where that is so."""

import numpy
import pytest
import torch

from rarefy.core.errors import FileError
from rarefy.formats.onnx_sparse import make_sparse

onnx = pytest.importorskip("onnx")


def saved(path, ir_version: int = 10, **initializers: numpy.ndarray) -> None:
    from onnx import TensorProto, helper, numpy_helper

    held = [numpy_helper.from_array(values, name) for name, values in initializers.items()]
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    x, y = info("x", TensorProto.FLOAT, [1, 64]), info("y", TensorProto.FLOAT, [1, 32])
    opset = helper.make_opsetid("", 13)
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], held), opset_imports=[opset])
    model.ir_version = ir_version
    onnx.save(model, str(path))


def sparse(density: float) -> numpy.ndarray:
    torch.manual_seed(0)
    return (torch.randn(64, 32) * (torch.rand(64, 32) < density)).numpy()


def test_what_becomes_smaller_is_stored_by_places_and_values(tmp_path) -> None:
    path, weight = tmp_path / "m.onnx", sparse(0.1)
    saved(path, w=weight, half=sparse(0.5), small=numpy.zeros((4, 8), numpy.float32))
    before = path.stat().st_size
    found = make_sparse(path)
    assert found == {"w": pytest.approx(float((weight == 0).mean()))}
    graph = onnx.load(str(path)).graph
    assert [tensor.name for tensor in graph.initializer] == ["half", "small"]
    (stored,) = graph.sparse_initializer
    dense = numpy.zeros(64 * 32, numpy.float32)
    dense[onnx.numpy_helper.to_array(stored.indices)] = onnx.numpy_helper.to_array(stored.values)
    assert (stored.values.name, list(stored.dims)) == ("w", [64, 32])
    assert numpy.array_equal(dense.reshape(64, 32), weight)
    assert before - path.stat().st_size > weight.nbytes * 0.6


def test_a_runtime_computes_the_same(tmp_path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    path, weight = tmp_path / "m.onnx", sparse(0.1)
    saved(path, w=weight)
    assert make_sparse(path).keys() == {"w"}
    x = torch.randn(1, 64).numpy()
    (y,) = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert numpy.allclose(y, x @ weight, atol=1e-5)


def test_a_file_that_is_too_old_is_refused_untouched(tmp_path) -> None:
    path = tmp_path / "m.onnx"
    saved(path, ir_version=5, w=sparse(0.1))
    before = path.read_bytes()
    with pytest.raises(FileError, match="IR version 5 has no sparse initializers"):
        make_sparse(path)
    assert path.read_bytes() == before
