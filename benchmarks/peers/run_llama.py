"""llama.cpp serving decode steps of one GGUF file: python run_llama.py MODEL.gguf --threads 2 --context 64.

One call is one token at batch 1, its attention looking at `context` earlier ones: the cache is cut back after each
call, so that every call does the same work.
"""

import argparse
from collections.abc import Callable
from typing import Any

from serve import serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=64)
    asked = parser.parse_args()

    def prepare() -> tuple[Callable[[], Any], dict[str, Any]]:
        import llama_cpp
        import numpy

        model = llama_cpp.Llama(
            asked.model, n_ctx=max(512, asked.context + 8), n_threads=asked.threads, n_threads_batch=asked.threads,
            verbose=False,
        )  # fmt: skip
        size = model.n_vocab()
        model.eval([(7 * i) % (size - 10) + 5 for i in range(asked.context)])

        def step() -> Any:
            model.n_tokens = asked.context
            model.eval([11])  # drops what the cache holds beyond n_tokens, then adds one
            return numpy.ctypeslib.as_array(llama_cpp.llama_get_logits(model.ctx), shape=(size,)).copy()

        return step, {"version": llama_cpp.__version__, "system": llama_cpp.llama_print_system_info().decode()}

    serve(prepare)


if __name__ == "__main__":
    main()
