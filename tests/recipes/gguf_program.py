"""Run by `test_convert_gguf.py` with the Python of an environment that has llama-cpp-python. Not a test.

python gguf_program.py MODEL.gguf IDS.npy LOGITS.npy
"""

import sys

import numpy
from llama_cpp import Llama


def main(model: str, ids: str, out: str) -> None:
    llama = Llama(model, logits_all=True, n_ctx=64, verbose=False, n_threads=1)
    found = []
    for row in numpy.load(ids):
        llama.reset()
        llama.eval([int(i) for i in row])
        found.append(numpy.array(llama.scores[: len(row)]))
    numpy.save(out, numpy.stack(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
