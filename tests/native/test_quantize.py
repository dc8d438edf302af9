"""Rows rounded to bytes, on every instruction set, beside the same in torch."""

import os
import subprocess
import sys

import pytest
import torch

from rarefy import ops
from rarefy.ops import quantize
from rarefy.ops.native import LEVELS

pytestmark = pytest.mark.skipif(not ops.available(), reason="the native module is not built")


def rows(tokens: int, features: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(tokens * 1000 + features)
    return torch.randn(tokens, features, generator=generator) * torch.rand(tokens, 1, generator=generator) * 10 + 1


def check() -> None:
    for tokens, features in ((1, 1), (3, 4), (5, 15), (40, 16), (7, 17), (33, 63), (70, 384), (9, 1000)):
        x = rows(tokens, features)
        x[tokens // 2] = 0
        got, want = torch.ops.rarefy.quantize_rows(x), quantize._reference(x)
        for one, other in zip(got, want, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        back = (got[0].float() - got[2].unsqueeze(-1)) * got[1].unsqueeze(-1)
        assert ((back - x).abs() <= 0.501 * got[1].unsqueeze(-1) + 1e-6).all()


def test_every_instruction_set_rounds_as_torch_does():
    check()
    for isa in LEVELS[: LEVELS.index(str(ops.features()["isa"])) + 1]:
        code = "import test_quantize; test_quantize.check()"
        paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
        subprocess.run(
            [sys.executable, "-c", code], check=True, env={**os.environ, "RAREFY_ISA": isa, "PYTHONPATH": paths}
        )


def test_zero_is_kept_exactly_and_rows_of_one_sign_use_the_whole_range():
    values, scale, zero = torch.ops.rarefy.quantize_rows(torch.tensor([[0.0, 5.0], [-5.0, 0.0], [0.0, 0.0]]))
    assert zero.tolist() == [0, 255, 0]
    assert values.tolist() == [[0, 255], [0, 255], [0, 0]]
    assert scale[2] == 1


def test_extremes_stay_in_range():
    huge = torch.finfo(torch.float32).max
    x = torch.tensor([[huge, -huge, 0.0], [1e-38, -1e-38, 0.0], [1e-44, 0.0, 0.0], [float("nan"), 1.0, -1.0]])
    values, scale, zero = torch.ops.rarefy.quantize_rows(x)
    assert scale[:3].isfinite().all()
    assert (scale[:3] > 0).all()
    assert scale[3].isnan()  # the bytes alone would hide the NaN
    assert values[0].tolist() == [255, 0, int(zero[0])]
    assert values[3, 0] == 0
    assert values[3, 1] >= 254


def test_leading_axes_and_no_rows():
    values, scale, zero = torch.ops.rarefy.quantize_rows(rows(6, 8).view(2, 3, 8))
    assert (values.shape, scale.shape, zero.shape) == ((2, 3, 8), (2, 3), (2, 3))
    assert torch.ops.rarefy.quantize_rows(torch.zeros(0, 8))[0].shape == (0, 8)
