"""The yardstick: benchmarks/kernels/plain_loop.cc, built by `cmake -DRAREFY_BENCHMARK=ON`, called through ctypes."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor


class Plain:
    """A weight (out, in) packed for the plain loop; call it with x (tokens, in)."""

    def __init__(self, library: Path, weight: Tensor) -> None:
        self._native = ctypes.CDLL(str(library))
        pointer, number = ctypes.c_void_p, ctypes.c_int
        self._native.plain_pack.restype = pointer
        self._native.plain_pack.argtypes = [pointer, number, number]
        self._native.plain_multiply.argtypes = [pointer, pointer, number, pointer, number]
        self._native.plain_free.argtypes = [pointer]
        self._out = weight.shape[0]
        self._packed = self._native.plain_pack(weight.data_ptr(), *weight.shape)

    def __call__(self, x: Tensor) -> Tensor:
        out = torch.empty(x.shape[0], self._out)
        self._native.plain_multiply(self._packed, x.data_ptr(), x.shape[0], out.data_ptr(), torch.get_num_threads())
        return out

    def __del__(self) -> None:
        self._native.plain_free(self._packed)
