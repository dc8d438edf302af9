"""Where each family of kernels begins and ends to be proposed: at its limits, on either side."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rarefy.ops import families
from rarefy.ops.families import best_isa, block8, columns, lookup, matvec, matvec4, neurons, nmg, takes_scales
from rarefy.ops.native import LEVELS, KernelInfo
from rarefy.patterns.grouped_nm import GroupedNM, all_ways
from rarefy.patterns.nm import NM


def kernel(name: str, isa: str = "avx2", *, op: str = "", activations: str = "fp32", tokens: int = 1) -> KernelInfo:
    return KernelInfo(name, op, isa, "fp32", activations, (1, tokens, 1))


def filled(count: int, rows: int, columns: int) -> Tensor:
    """So many ones, from the first row on."""
    return (torch.arange(rows * columns) < count).float().view(rows, columns)


def uneven(*counts: int, width: int) -> Tensor:
    """So many ones at the beginning of each row."""
    return (torch.arange(width) < torch.tensor(counts)[:, None]).float()


THREE = [kernel("a"), kernel("b"), kernel("c")]
ONE, NONE = ["a"], []


@pytest.mark.parametrize(
    ("op", "weight", "tokens", "names"),
    [
        ("dense16", filled(1, 1, 4), 1, ONE),
        ("dense8", filled(1, 1, 4), 1, ONE),
        ("expand16", filled(87, 10, 10), 1, ONE),
        ("expand16", filled(88, 10, 10), 1, NONE),
        ("expand8", filled(775, 10, 100), 1, ONE),
        ("expand8", filled(776, 10, 100), 1, NONE),
        ("dense32", filled(45, 10, 10), 1, NONE),
        ("dense32", filled(46, 10, 10), 1, ONE),
        ("dense32", filled(46, 10, 10), 256, ONE),
        ("dense32", filled(46, 10, 10), 257, NONE),
        ("expand32", filled(35, 10, 10), 16, NONE),
        ("expand32", filled(36, 10, 10), 16, ONE),
        ("expand32", filled(94, 10, 10), 16, ONE),
        ("expand32", filled(95, 10, 10), 16, NONE),
        ("expand32", filled(50, 10, 10), 2, NONE),
        ("expand32", filled(50, 10, 10), 3, ONE),
        ("expand32", filled(50, 10, 10), 64, ONE),
        ("expand32", filled(50, 10, 10), 65, NONE),
        ("expand32", filled(1, 1, 1), 16, NONE),
        ("expand32", filled(0, 0, 4), 16, NONE),
        ("spmv", filled(1, 1, 4), 8, ["a", "b", "c"]),
        ("spmv", filled(1, 1, 4), 9, NONE),
        ("fanin", filled(1, 1, 4), 17, NONE),
        ("fanin", filled(1, 1, 4), 16, ["a", "b", "c"]),
        ("fanin", filled(0, 0, 4), 1, NONE),
        ("fanin", filled(0, 4, 0), 1, NONE),
        ("fanin", filled(0, 1, 1), 1, ["a", "b", "c"]),
        ("fanin", uneven(*[30] * 10, width=100), 1, ["a", "b", "c"]),
        ("fanin", uneven(31, *[30] * 9, width=100), 1, NONE),
        ("fanin", uneven(11, 9, width=100), 1, ["a", "b", "c"]),
        ("fanin", uneven(9, 12, width=100), 1, NONE),
        ("lookup", filled(45, 10, 10), 8, ["a", "b", "c"]),
        ("lookup", filled(45, 10, 10), 9, NONE),
        ("lookup", filled(46, 10, 10), 1, NONE),
        ("lookup", filled(0, 0, 4), 1, ["a", "b", "c"]),
        ("columns", filled(1, 1, 4), 1, NONE),
        ("neurons", filled(1, 1, 4), 1, NONE),
    ],
)
def test_limits(op: str, weight: Tensor, tokens: int, names: list[str]) -> None:
    assert families.FAMILIES[op](THREE, weight, tokens) == names


def test_tiles_are_filled_at_least_half() -> None:
    kernels = [kernel(str(tokens), tokens=tokens) for tokens in (16, 17, 18, 19, 32)]

    def proposed(tokens: int) -> list[str]:
        return families.FAMILIES["spmm"](kernels, filled(1, 1, 4), tokens)

    assert proposed(2) == [] and proposed(3) == ["16"]
    assert (
        proposed(8) == ["16"] and proposed(9) == ["16", "17", "18"] and proposed(16) == ["16", "17", "18", "19", "32"]
    )
    small = [kernel(name, tokens=16) for name in "abc"]
    assert families.FAMILIES["spmm"](small, filled(1, 1, 4), 8) == ["a", "b"]
    assert families.FAMILIES["spmm"](small, filled(1, 1, 4), 9) == ["a", "b", "c"]


FORMATS = [
    kernel(f"matvec-{isa}-{form}-x", isa) for isa in LEVELS[:3] for form in ("dense", "bitmask", "fixed", "index")
]


@pytest.mark.parametrize(
    ("weight", "tokens", "formats"),
    [
        (filled(100, 10, 10), 16, ["dense"]),
        (filled(100, 10, 10), 17, []),
        (filled(91, 10, 10), 1, ["dense"]),
        (filled(90, 10, 10), 1, ["bitmask", "dense"]),
        (filled(70, 10, 10), 1, ["bitmask", "dense"]),
        (filled(69, 10, 10), 1, ["bitmask"]),
        (filled(26, 10, 10), 1, ["bitmask"]),
        (filled(25, 10, 10), 1, ["bitmask", "index"]),
        (filled(1, 1, 1), 1, ["dense"]),
        (filled(0, 0, 4), 1, ["bitmask", "index"]),
        (filled(0, 1, 65536), 1, ["fixed", "bitmask", "index"]),
        (filled(0, 1, 65537), 1, ["bitmask"]),
        (uneven(*[9] * 8, 8, 8, width=16), 1, ["fixed", "bitmask"]),  # 55 %
        (uneven(*[9] * 10, width=16), 1, ["bitmask"]),
    ],
)
def test_formats_of_row_streams(weight: Tensor, tokens: int, formats: list[str]) -> None:
    assert matvec.worth(FORMATS, weight, tokens) == [f"matvec-avx512-{form}-x" for form in formats]
    assert matvec.best_of(FORMATS[::-1], "dense") == ["matvec-avx512-dense-x"] and matvec.best_of(FORMATS, "x") == []


def test_what_counts_as_n_of_m() -> None:
    for m, row in ((4, [1, 0, 1, 0]), (8, [1, 1, 1, 0, 0, 0, 0, 0]), (16, [1] * 5 + [0] * 11)):
        weight = torch.tensor([row, row[::-1]]).float()
        assert matvec.is_nm(weight, sum(row) / m)
        assert not matvec.is_nm(weight, 0.9 * sum(row) / m)
    assert matvec.is_nm(filled(2, 1, 4), 0.5 / 1.05) and not matvec.is_nm(filled(2, 1, 4), 0.499 / 1.05)
    assert not matvec.is_nm(torch.ones(2, 16), 1.0)  # all of four are no pattern
    assert not matvec.is_nm(filled(0, 0, 4), 0.0) and not matvec.is_nm(filled(3, 1, 6), 0.5)
    assert matvec.is_nm(NM(2, 4).select(torch.rand(3, 12), 0.5).float(), 0.5)
    assert not matvec.is_nm(torch.tensor([[1.0, 1, 0, 0, 1, 1, 1, 1]]), 0.5)


def test_empty_groups_of_sixteen() -> None:
    weight = torch.ones(2, 40)
    weight[:, 32:] = 0  # fill no group
    weight[1, 16:32] = 0
    assert matvec4.empty_groups(weight) == 0.25
    weight[1, 31] = 1
    assert matvec4.empty_groups(weight) == 0.0
    assert matvec4.empty_groups(torch.zeros(3, 15)) == 0.0 and matvec4.empty_groups(torch.zeros(3, 16)) == 1.0


def test_four_bits_in_groups_or_whole_rows() -> None:
    kernels = [kernel(f"matvec4-avx2-{form}-x") for form in ("dense", "groups", "listed")]
    dense, groups = [kernels[0].name], [kernels[2].name, kernels[1].name]
    full = torch.ones(1, 320)
    assert matvec4.worth(kernels, full, 1) == dense == matvec4.worth(kernels, full, 16)
    assert matvec4.worth(kernels, full, 17) == []
    full[0, :16] = 0  # one of twenty
    assert matvec4.worth(kernels, full, 1) == groups
    assert matvec4.worth(kernels, torch.cat([full, torch.ones(1, 320)]), 1) == dense
    assert matvec4.worth(kernels, torch.ones(1, 65536), 1) == dense
    assert matvec4.worth(kernels, torch.ones(1, 65537), 1) == []


@pytest.mark.parametrize("op", ["matvec4", "columns", "neurons"])
def test_scales_of_four_bits_stand_for_whole_groups(op: str) -> None:
    taken = [groups for groups in range(1, 21) if takes_scales(op, 320, groups)]
    assert taken == [1, 2, 4, 5, 10, 20] or taken == [groups for groups in range(1, 21) if 320 // groups % 16 == 0]
    assert takes_scales(op, 7, 1) and not takes_scales(op, 320, 40) and takes_scales(op, 48, 3)
    assert not takes_scales(op, 34, 2) and not takes_scales(op, 30, 2)


def test_scales_of_the_other_families() -> None:
    for op in ("matvec", "fanin", "lookup", "nmg"):
        assert takes_scales(op, 320, 1) and not takes_scales(op, 320, 2) and not takes_scales(op, 320, 0)
    for op in ("dense8", "expand8"):
        assert takes_scales(op, 65536, 1) and not takes_scales(op, 65537, 1) and not takes_scales(op, 64, 2)
    for op in ("spmm", "block8", "dense32"):
        assert takes_scales(op, 320, 3)


def test_the_best_vectors_stand_beside_the_tiles() -> None:
    listed = [kernel(isa, isa) for isa in ("amx", *LEVELS[:4], "amx")]
    assert [k.isa for k in best_isa(listed)] == ["amx", "amx", "vnni"]
    assert [k.isa for k in best_isa(listed[:1])] == ["amx"] and best_isa([]) == []
    assert [k.isa for k in best_isa([kernel("b", "scalar")])] == ["scalar"]


def test_inputs_are_picked_out_of_the_widest_registers() -> None:
    """Of every type that is stored, in the order they are given in."""
    listed = [kernel(f"{isa}-{stored}", isa) for isa in ("scalar", *LEVELS[1:3]) for stored in ("fp32", "int8")]
    widest = [f"{LEVELS[2]}-fp32", f"{LEVELS[2]}-int8"]
    assert lookup.worth(listed, filled(1, 4, 4), 1) == widest == lookup.worth(listed[2:], filled(1, 4, 4), 1)
    assert lookup.worth(listed[:2], filled(1, 4, 4), 1) == ["scalar-fp32", "scalar-int8"]
    assert lookup.worth([], filled(1, 4, 4), 1) == []


@pytest.mark.parametrize(("n", "m", "g"), [(1, 2, 1), (2, 4, 3), (1, 16, 1), (8, 9, 1), (4, 8, 1), (3, 5, 1)])
def test_grouped_n_of_m_is_recognised(n: int, m: int, g: int) -> None:
    pattern = GroupedNM(n, m, g)
    mask = pattern.select(torch.rand(3, 2 * pattern.granularity[1]), n / m)
    assert nmg.is_grouped(mask) and nmg.is_grouped(mask[:1])
    assert nmg.worth(THREE, mask.float(), 16) == ["a", "b", "c"] and nmg.worth(THREE, mask.float(), 17) == []
    moved = mask.clone()
    moved[2, :m] = moved[2, :m].roll(1)  # one way once more, another once less
    assert not nmg.is_grouped(moved)
    for added in (False, True):
        other = mask.clone()
        other[2, int((mask[2] != added).nonzero()[0])] = added
        assert not nmg.is_grouped(other)


@pytest.mark.parametrize(("n", "m"), [(1, 17), (9, 10)])
def test_grouped_n_of_m_beyond_the_kernels(n: int, m: int) -> None:
    pattern = GroupedNM(n, m, 1)
    assert not nmg.is_grouped(pattern.select(torch.rand(1, pattern.granularity[1]), n / m))


def test_too_many_ways_and_what_is_no_pattern() -> None:
    ways = nmg.comb(13, 3)  # 286
    row = torch.zeros(ways, 13, dtype=torch.bool)
    for way, kept in enumerate(torch.combinations(torch.arange(13), 3)):
        row[way, kept] = True
    assert not nmg.is_grouped(row.view(1, -1))
    for mask in (torch.zeros(2, 16), torch.ones(2, 16), torch.ones(2, 17)):
        assert not nmg.is_grouped(mask.bool()) and nmg.worth(THREE, mask, 1) == []
    assert nmg.worth(THREE, torch.zeros(0, 4), 1) == [] and nmg.worth(THREE, torch.zeros(4, 0), 1) == []


def test_each_way_is_used_once_in_the_smallest_chunk_and_none_twice() -> None:
    ways = all_ways(1, 4)
    assert nmg.is_grouped(ways[[2, 0, 3, 1]].view(1, -1))
    for used in ([0, 1, 1, 3], [0, 0, 1, 3], [0, 1, 3, 3]):
        assert not nmg.is_grouped(ways[used].view(1, -1))
    assert not nmg.is_grouped(torch.tensor([[True, False]]))  # one group, and two ways


def test_the_widest_that_is_grouped() -> None:
    weight = torch.tensor([[1.0, 0.0, 0.0, 1.0]]).repeat(1, 16384)
    assert nmg.worth(THREE, weight, 1) == ["a", "b", "c"]
    assert nmg.worth(THREE, torch.cat([weight, weight[:, :4]], 1), 1) == []


COLUMNS = [
    kernel(f"columns-{isa}-{form}-{bits}", isa, op="columns", activations=bits)
    for isa in ("avx512", "scalar", "avx2")
    for form, bits in (("bitmask", "fp32"), ("dense", "fp32"))
]


def test_columns_without_zeros_where_there_are_many() -> None:
    dense, bitmask = "columns-avx512-dense-fp32", "columns-avx512-bitmask-fp32"
    assert columns.selective(COLUMNS, filled(80, 10, 10)) == [dense, bitmask]
    assert columns.selective(COLUMNS, filled(81, 10, 10)) == [dense]
    rounding = kernel("columns-vnni-dense-int8", "vnni", op="columns", activations="int8")
    assert columns.selective([rounding, *COLUMNS], filled(0, 10, 10)) == [bitmask, rounding.name]
    rows = [kernel(f"neurons-{isa}-fp32", isa, op="neurons") for isa in ("avx512", "scalar")]
    assert columns.selective(rows, filled(80, 10, 10)) == ["neurons-avx512-fp32"]
    assert columns.selective([], filled(80, 10, 10)) == []


SHAPES = [("cell", 6), ("strip", 2), ("strip", 4), ("strip", 16)]
BLOCKS = [
    KernelInfo(f"block8-vnni-{shape}-r{rows}", "block8", "vnni", "int8", "int8", (rows, 64, 4))
    for shape, rows in SHAPES
]
CYCLES = {"cell-r6": 3.4, "strip-r2": 9.5 / 4, "strip-r4": 13.0 / 4, "strip-r16": 40.0 / 4}  # of one block


def proposed(weight: Tensor, tokens: int = 64, kernels: list[KernelInfo] = BLOCKS) -> list[str]:
    return [name.removeprefix("block8-vnni-") for name in block8.worth(kernels, weight, tokens)]


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (2, 1), (4, 1), (16, 1), (3, 5)])
@pytest.mark.parametrize("shape", [(16, 24), (17, 23), (1, 1), (5, 3)])
def test_blocks_are_counted_that_hold_anything(rows: int, columns: int, shape: tuple[int, int]) -> None:
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(rows)) < 0.1
    parts = [part for band in keep.split(rows) for part in band.split(columns, 1)]
    assert block8._blocks(keep, rows, columns) == sum(bool(part.any()) for part in parts)


def test_full_weights_take_high_strips_and_what_comes_near() -> None:
    """Of 16 full rows and w inputs: cells 13.6 w, strips 19 w, 13 w and 10 w cycles; 13 is the most that comes near."""
    assert proposed(torch.ones(16, 40)) == ["strip-r16", "strip-r4"]
    assert proposed(torch.ones(16, 40), kernels=BLOCKS[:3]) == ["strip-r4", "cell-r6"]
    assert proposed(torch.ones(16, 40), kernels=BLOCKS[:2]) == ["cell-r6"]
    assert proposed(torch.ones(16, 40), kernels=BLOCKS[1:2]) == ["strip-r2"]


@pytest.mark.parametrize(("fours", "names"), [(12, ["strip-r4", "strip-r16"]), (11, ["strip-r4"])])
def test_high_strips_that_are_not_full_may_come_near(fours: int, names: list[str]) -> None:
    """Five strips of 16 rows take 50 cycles, the 12 of four rows that they hold 39: 1.28 times less; 11 take 35.75."""
    filled_fours = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, fours - 11, 0, 0, 0], [0, 0, 0, 0, 0]])
    assert int(filled_fours.sum()) == fours
    assert proposed(filled_fours.repeat_interleave(4, 0).float(), kernels=BLOCKS[2:]) == names


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
def test_the_shapes_of_least_cycles_come_first(density: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(48, 64, generator=generator) < density
    for r, c in ((1, 1), (1, 4), (2, 1), (4, 1), (16, 1)):
        blocks = keep[: 48 // r, : 64 // c].repeat_interleave(r, 0).repeat_interleave(c, 1)
        cost = {
            f"{shape}-r{rows}": CYCLES[f"{shape}-r{rows}"]
            * block8._blocks(blocks, 1 if shape == "cell" else rows, 4 if shape == "cell" else 1)
            for shape, rows in SHAPES
        }
        want = [name for name in sorted(cost, key=cost.__getitem__) if cost[name] <= 1.3 * min(cost.values())]
        assert proposed(blocks.float()) == want


def test_a_narrow_tile_costs_more_where_the_tokens_fill_a_wide_one() -> None:
    wide, narrow = BLOCKS[0], replace(BLOCKS[0], name="block8-vnni-cell-r6-t32", tile=(6, 32, 4))
    weight = torch.ones(16, 40)
    for tokens, first in ((65, wide), (64, wide), (33, wide), (32, narrow)):
        assert block8.worth([narrow, wide], weight, tokens)[0] == first.name
    nearly = replace(narrow, tile=(6, 63, 4))
    assert block8.worth([nearly, wide], weight, 64) == [wide.name, nearly.name]
    assert block8.worth([nearly, wide], weight, 63) == [nearly.name, wide.name]
    # 13.6 w against 1.15 * 10 w and 1.3 * 10 w; 13 w and 1.15 * 13 w
    strips = [replace(k, tile=(k.tile[0], 32, 4)) for k in BLOCKS[1:]]
    assert proposed(weight, 64, [BLOCKS[0], *strips]) == ["strip-r16", "cell-r6", "strip-r4"]
    assert proposed(weight, 64, [replace(BLOCKS[0], tile=(6, 32, 4)), BLOCKS[3]]) == ["strip-r16"]


def test_tiles_that_few_tokens_fill_half() -> None:
    weight = torch.ones(16, 40)
    assert proposed(weight, 31) == [] and proposed(weight, 32) == ["strip-r16", "strip-r4"]
    for empty in (torch.zeros(0, 4), torch.zeros(4, 0)):
        assert proposed(empty) == ["cell-r6"] and proposed(empty, 1) == []
    assert proposed(torch.zeros(4, 4)) == ["cell-r6", "strip-r2", "strip-r4", "strip-r16"]


def test_nothing_is_worth_it_for_all_rows() -> None:
    assert neurons.worth(THREE, torch.ones(4, 4), 1) == []
