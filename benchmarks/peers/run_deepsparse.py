"""DeepSparse serving one ONNX file: python run_deepsparse.py MODEL.onnx INPUTS.npz --threads 2."""

import argparse
import os
from collections.abc import Callable
from typing import Any

os.environ["NM_DISABLE_ANALYTICS"] = "True"  # before the import: nothing is sent

from serve import serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("inputs", help="arrays named input_0, input_1, ... in the order of the model's inputs")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()

    def prepare() -> tuple[Callable[[], Any], dict[str, Any]]:
        import deepsparse
        import numpy

        stored = numpy.load(asked.inputs)
        arrays = [numpy.ascontiguousarray(stored[f"input_{i}"]) for i in range(len(stored.files))]
        engine = deepsparse.Engine(asked.model, arrays[0].shape[0], num_cores=asked.threads)
        facts = {"version": deepsparse.__version__, "supported": engine.fraction_of_supported_ops}
        return lambda: engine.run(arrays, val_inp=False)[0], facts

    serve(prepare)


if __name__ == "__main__":
    main()
