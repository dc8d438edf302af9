"""An ONNX file's initializers stored without their zeros, which saves bytes on disk and nothing else."""

from pathlib import Path
from typing import Any

from rarefy.core.errors import FileError
from rarefy.formats.atomic import replace_file

_SMALLEST = 1024  # bytes; below this the names and sizes cost more than the zeros


def make_sparse(path: Path) -> dict[str, float]:
    """Rewrites the file with each initializer that becomes smaller as a `sparse_initializer`; {name: zeros in it}.

    values `(nnz,)` and int64 places in the flat tensor, ascending: 8 bytes a value beside the value's own, so a float32
    tensor gains from two thirds of zeros on. ONNX Runtime and others make them dense again when they load the file.
    Source: onnx.proto, `GraphProto.sparse_initializer`, IR version 6 and later. Raises FileError.
    """
    import numpy
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    if model.ir_version < 6:
        raise FileError(f"{path}: ONNX IR version {model.ir_version} has no sparse initializers; export it again")
    graph, dense, found = model.graph, list[Any](), dict[str, float]()
    for stored in graph.initializer:
        values = numpy_helper.to_array(stored)
        places = numpy.flatnonzero(values.reshape(-1))
        if values.nbytes < _SMALLEST or places.size * (values.itemsize + 8) >= values.nbytes:
            dense.append(stored)
            continue
        kept = numpy_helper.from_array(values.reshape(-1)[places], stored.name)
        where = numpy_helper.from_array(places.astype(numpy.int64), f"{stored.name}_indices")
        graph.sparse_initializer.append(helper.make_sparse_tensor(kept, where, list(values.shape)))
        found[stored.name] = 1.0 - places.size / values.size
    del graph.initializer[:]
    graph.initializer.extend(dense)
    replace_file(path, lambda aside: onnx.save(model, str(aside)))
    return found
