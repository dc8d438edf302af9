"""GQSA: whole groups, two stages that each do their part and no more, and what its bytes buy."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.grid import QuantizeSpec, codes_of, short
from rarefy.core.protocols import Solver
from rarefy.core.quantized import QuantizedWeight
from rarefy.formats.codes import code_bytes, stored_bytes
from rarefy.ops import available, pack
from rarefy.patterns.block import Block
from rarefy.patterns.nm import NM
from rarefy.pruning import prune
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.gptq import GPTQ
from rarefy.solvers.group_saliency import GroupSaliency
from rarefy.solvers.quantized import Quantized
from rarefy.solvers.scored import Scored

WIDTH = 64


def blocks() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(3))).eval()


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(16, WIDTH, generator=generator)
    rows = [torch.randn(64, 16, generator=generator) @ mix for _ in range(3)]
    return [x + 0.3 * torch.randn(64, WIDTH, generator=generator) for x in rows]


def made(**options: Any) -> tuple[nn.Module, Any]:
    model = blocks()
    report = prune(model, "gqsa", sparsity=0.5, data=batches(), **{"passes": 5, **options})
    return model, report


def integers(model: nn.Module) -> list[QuantizedWeight]:
    found = [codes_of(m) for m in model.modules() if isinstance(m, nn.Linear)]
    assert all(codes is not None for codes in found)
    return [codes for codes in found if codes is not None]


def test_zeros_are_whole_aligned_groups_at_the_exact_rate() -> None:
    for passes, tuning in ((0, 0), (5, 2)):
        model, report = made(passes=passes, tuning=tuning)
        for codes, row in zip(integers(model), report.sites, strict=True):
            kept = codes.values.reshape(-1, 16).ne(0).any(1)
            assert int(kept.sum()) == WIDTH * WIDTH // 32
            assert row.zeros == WIDTH * WIDTH - 16 * int(kept.sum()) + row.result["rounded_to_zero"]


def test_the_first_stage_brings_blocks_nearer_to_the_dense_ones_and_stays_on_the_grid() -> None:
    (plain, _), (fitted, report) = made(passes=0, tuning=0), made(tuning=0)
    for row in report.sites:
        assert row.result["block_error"] < 0.9 * row.result["block_error_unrepaired"]
    before, after = integers(plain), integers(fitted)
    assert torch.equal(before[0].scale, after[0].scale)  # of the first block, whose inputs are the same
    assert not torch.equal(before[0].values, after[0].values)


def test_the_second_stage_changes_scales_and_nothing_else() -> None:
    (first, _), (second, report) = made(tuning=0), made(tuning=3)
    for a, b in zip(integers(first), integers(second), strict=True):
        assert torch.equal(a.values, b.values) and not torch.equal(a.scale, b.scale)
        assert torch.equal(b.scale.half().float(), b.scale)
    said = report.sites[0].result
    assert said["loss_after_tuning"] < said["loss_before_tuning"]
    biases = [[m.bias for m in net.modules() if isinstance(m, nn.Linear)] for net in (first, second)]
    assert all(torch.equal(a, b) for a, b in zip(*biases, strict=True))


def test_the_loss_that_is_given_is_the_one_that_is_tuned() -> None:
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        out: Tensor = model(batch)
        return (out - 0.3).square().mean()

    model = blocks()
    report = prune(model, "gqsa", sparsity=0.5, passes=0, tuning=5, tuning_rate=2e-2, data=batches(), loss=loss)
    said = report.sites[0].result
    reached = sum(float(loss(model, x)) for x in batches()) / 3
    assert reached == pytest.approx(said["loss_after_tuning"], rel=1e-4) and reached < said["loss_before_tuning"]


def planted(seed: int) -> tuple[Tensor, Tensor]:
    """A layer half of whose groups of 16 hardly matter, and correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(48, 128, generator=generator)
    small = torch.rand(48, 8, generator=generator).argsort(1) < 4
    weight = torch.where(small.repeat_interleave(16, 1), 0.05 * weight, weight)
    x = torch.randn(300, 128, generator=generator)
    return weight, x + 0.7 * x.roll(1, dims=1)


def error(solver: Solver, pattern: Any, seed: int) -> tuple[float, int]:
    """(relative squared output error, bytes in a file)"""
    weight, x = planted(seed)
    found = solver(weight, pattern, 0.5, evidence_of(weight, x))
    assert found.grid is not None
    off = float(((weight - found.weight) @ x.t()).square().sum() / (weight @ x.t()).square().sum())
    return off, stored_bytes(found.grid.round(found.weight))


def two_bits(seed: int) -> tuple[float, int]:
    """Rounded to nearest with 2 bits and the best of many scales for 16 inputs: what the paper compares with."""
    weight, x = planted(seed)
    grouped = weight.reshape(48, 8, 16)
    best, least = torch.zeros_like(grouped), torch.full((48, 8), torch.inf)
    for share in torch.linspace(0.2, 1.0, 40):
        scale = short(grouped.abs().amax(2) * share)[..., None]
        rounded = (grouped / scale).round().clamp(-2, 1) * scale
        off = (rounded - grouped).square().sum(2)
        best, least = torch.where((off < least)[..., None], rounded, best), torch.minimum(off, least)
    change = (weight - best.reshape(48, 128)) @ x.t()
    return float(change.square().sum() / (weight @ x.t()).square().sum()), 48 * 128 // 4 + 48 * 8 * 2


def test_less_error_than_two_bits_and_two_of_four_at_no_more_bytes() -> None:
    spec = QuantizeSpec(4, 16)
    for seed in range(3):
        groups, size = error(Quantized(GroupSaliency(), spec), Block(1, 16), seed)
        for other, bytes_ in (two_bits(seed), error(GPTQ(spec), NM(2, 4), seed)):
            assert size <= bytes_ and groups < 0.5 * other


def finds_the_groups_that_inputs_do_not_reach(solver: Solver) -> None:
    """Large weights on quiet inputs: what they add to the output is small."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(8, 64, generator=generator), torch.randn(200, 64, generator=generator)
    weight[:, :32] *= 3.0
    x[:, :32] *= 0.05
    mask = solver(weight, Block(1, 16), 0.5, evidence_of(weight, x)).mask
    assert not mask[:, :32].any() and mask[:, 32:].all()


def test_group_saliency() -> None:
    assert_beats_impostor(finds_the_groups_that_inputs_do_not_reach, GroupSaliency(), Scored(Magnitude()))


@pytest.mark.skipif(not available(), reason="the native module is not built")
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_kernel_takes_very_uneven_rows(threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    share = torch.logspace(-3, 0, 96)[:, None]
    keep = (torch.rand(96, 64, generator=generator) < share).repeat_interleave(16, 1)
    keep[:10] = False
    codes = torch.randint(-7, 8, (96, 1024), generator=generator).to(torch.int8) * keep
    weight = QuantizedWeight(codes, short(torch.rand(96, 64, generator=generator) + 0.1), 4)
    x, count = torch.randn(1, 1024, generator=generator), torch.get_num_threads()
    packed = pack(weight)
    torch.set_num_threads(threads)
    try:
        got = packed.multiply(x, None, "none")
    finally:
        torch.set_num_threads(count)
    wanted = x.double() @ weight.dequantize().double().t()
    assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()
    groups = int(codes.reshape(96, 64, 16).ne(0).any(2).sum())
    if "groups" in packed.kernel:  # a bit a group, 8 bytes of integers and a scale of 2 for each that is there
        per_row = 8 * 97 + 12 * 96 + 256  # where rows begin; counts, scales and sums of rows; what may be overread
        assert packed.nbytes == 96 * 8 + 10 * groups + per_row
    assert stored_bytes(weight) <= code_bytes(96, 1024, groups, 16, groups, 4)


@pytest.mark.parametrize(
    ("options", "why"), [({"passes": -1}, "passes"), ({"tuning": -1}, "passes"), ({"bits": 5}, "bits")]
)
def test_impossible_fields(options: dict[str, Any], why: str) -> None:
    with pytest.raises(SparsityError, match=why):
        prune(blocks(), "gqsa", sparsity=0.5, data=batches(), **options)
