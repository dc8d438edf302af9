"""Every enumerated kernel of every instruction set that this CPU has, against sums in float64."""

import pytest
import torch
from oracle import assert_close, expected, normal, sparse

from rarefy import ops
from rarefy.ops import native
from rarefy.ops.families import best_isa

FLOATS = ("fp32", "fp32")  # weights and activations: the other types have tests of their own
ONE_SUPPORT = ("nmg",)  # families that hold one kind of support only: tests of their own
KERNELS = {k.name: k for k in ops.kernels() if (k.weights, k.activations) == FLOATS and k.op not in ONE_SUPPORT}
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
every_kernel = pytest.mark.parametrize("name", KERNELS)


def run(name, x, weight, bias=None, activation="none"):
    packed = ops.pack(weight, name)
    return torch.ops.rarefy.packed_linear(x, packed.handle, bias, activation, weight.shape[0])


def around(edge):
    return sorted({1, max(1, edge - 1), edge, edge + 1})


@every_kernel
def test_token_counts_around_every_tile_edge(name):
    weight, bias = sparse(50, 70, 0.3), normal(50)
    widest = KERNELS[name].tile[1]
    for tokens in sorted({t for edge in (4, 16, 32, 64, widest, 2 * widest) for t in around(edge)}):
        x = normal(tokens, 70, seed=tokens)
        assert_close(run(name, x, weight, bias), x, weight, bias, "none")


@every_kernel
def test_feature_counts_around_every_tile_edge(name):
    depth = KERNELS[name].tile[2] or 16
    for width in sorted({w for edge in (4, 16, depth, 2 * depth) for w in around(edge)}):
        weight, x = sparse(40, width, 0.4, seed=width), normal(20, width)
        assert_close(run(name, x, weight), x, weight, None, "none")


@every_kernel
def test_row_counts_around_every_band_edge(name):
    for out in sorted({o for edge in (4, 16, 48, 192, 384) for o in around(edge)}):
        weight, x = sparse(out, 33, 0.3, seed=out), normal(17, 33)
        assert_close(run(name, x, weight), x, weight, None, "none")


@every_kernel
@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 0.5, 0.95, 1.0])
def test_densities(name, density):
    weight, x, bias = sparse(200, 130, density), normal(65, 130), normal(200)
    assert_close(run(name, x, weight, bias, "gelu"), x, weight, bias, "gelu")


@every_kernel
@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
@pytest.mark.parametrize("tokens", [1, 3, 5, 21])
def test_activations_with_and_without_bias(name, activation, tokens):
    weight, x = sparse(37, 40, 0.4), 3 * normal(tokens, 40)
    for bias in (None, normal(37)):
        assert_close(run(name, x, weight, bias, activation), x, weight, bias, activation)


@every_kernel
def test_rows_and_columns_that_are_empty(name):
    weight = sparse(64, 300, 0.3)
    weight[::3] = 0
    weight[:, 128:] = 0
    x, bias = normal(19, 300), normal(64)
    got = run(name, x, weight, bias)
    assert_close(got, x, weight, bias, "none")
    assert torch.equal(got[:, ::3], bias[::3].expand(19, -1))


@every_kernel
def test_one_full_row_among_empty_ones(name):
    weight = torch.zeros(100, 777)
    weight[41] = normal(777)
    x = normal(33, 777)
    assert_close(run(name, x, weight), x, weight, None, "none")


@every_kernel
@pytest.mark.parametrize("shared", ["all", "none", "most", "of every fifth row"])
def test_rows_that_share_their_features(name, shared):
    supports = (sparse(60, 300, 0.4) != 0).repeat_interleave(2, dim=0)
    if shared == "none":
        supports[1::2] = ~supports[1::2]
    elif shared == "most":
        supports ^= sparse(120, 300, 0.03, seed=1) != 0
    elif shared == "of every fifth row":
        supports &= (torch.arange(120) % 5 == 0)[:, None]
    weight, x, bias = normal(120, 300) * supports, normal(70, 300), normal(120)
    assert_close(run(name, x, weight, bias), x, weight, bias, "none")
    assert torch.equal(ops.pack(weight, name).to_dense(), weight)


@every_kernel
def test_zero_input_gives_the_bias(name):
    weight, bias = sparse(30, 50, 0.5), normal(30)
    assert torch.equal(run(name, torch.zeros(18, 50), weight, bias), bias.expand(18, -1))


@every_kernel
def test_no_tokens(name):
    assert run(name, torch.zeros(0, 50), sparse(30, 50, 0.5)).shape == (0, 30)


# Some multiply the zeros too: tests/native/test_dense_floats.py, test_columns.py.
ZEROS_TOO = ("dense32", "expand32", "neurons")


@pytest.mark.parametrize(
    "name",
    [n for n, k in KERNELS.items() if k.op not in ZEROS_TOO and "columns-dense" not in n.replace(k.isa + "-", "")],
)
def test_a_nan_reaches_exactly_the_rows_whose_support_names_it(name):
    weight, x = sparse(60, 90, 0.3), normal(40, 90)
    clean = run(name, x, weight)
    for token, column in ((0, 0), (17, 5), (39, 89)):
        bad = x.clone()
        bad[token, column] = float("nan")
        got = run(name, bad, weight)
        reached = torch.zeros_like(got, dtype=torch.bool)
        reached[token] = weight[:, column] != 0
        assert reached.any()
        assert torch.equal(got.isnan(), reached)
        assert torch.equal(got[~reached], clean[~reached])


@every_kernel
def test_infinities_in_the_input_arrive(name):
    weight, x = sparse(20, 30, 0.5), normal(5, 30)
    x[2, 3] = float("inf")
    want = expected(x, weight, None, "none")
    support = weight[:, 3] != 0
    assert torch.equal(run(name, x, weight)[2, support], want[2, support].float())


@every_kernel
def test_the_dense_weight_comes_back_exactly(name):
    for out, width in ((1, 1), (5, 17), (193, 65), (200, 1025)):
        weight = sparse(out, width, 0.4)
        packed = ops.pack(weight, name)
        assert torch.equal(packed.to_dense(), weight)
        assert packed.nnz == int(weight.count_nonzero())
        assert packed.nbytes >= 4 * packed.nnz


@every_kernel
def test_denormals_are_dropped_and_special_values_kept(name):
    weight = torch.tensor(
        [[1e-40, 1.0, -1e-45, 0.0], [float("nan"), float("inf"), torch.finfo(torch.float32).tiny, -0.0]]
    )
    got = ops.pack(weight, name).to_dense()
    want = torch.tensor([[0.0, 1.0, 0.0, 0.0], [float("nan"), float("inf"), torch.finfo(torch.float32).tiny, 0.0]])
    assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0))


@every_kernel
def test_wide_layers(name):
    weight, x = sparse(3, 70_000, 0.01), normal(2, 70_000)
    assert_close(run(name, x, weight), x, weight, None, "none")
    assert torch.equal(ops.pack(weight, name).to_dense(), weight)


@every_kernel
def test_results_do_not_depend_on_the_number_of_threads(name):
    weight, bias = sparse(400, 300, 0.3), normal(400)
    for tokens in (1, 7, 130):
        x = normal(tokens, 300)
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(name, x, weight, bias, "silu"))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_every_instruction_set_of_this_cpu_is_tested():
    features = ops.features()
    assert {kernel.isa for kernel in KERNELS.values()} >= {"scalar"} | ({"avx2"} if features["avx2"] else set())


def test_tiles_stand_beside_the_most_capable_vectors():
    def listed(*levels):
        return [native.KernelInfo(f"expand8-{level}", "expand8", level, "int8", "int8", (0, 0, 0)) for level in levels]

    def kept(*levels):
        return [kernel.isa for kernel in best_isa(listed(*levels))]

    assert kept("scalar", "avx512", "vnni", "vbmi2", "amx") == ["amx", "vbmi2"]
    assert kept("scalar", "avx512", "vnni") == ["vnni"]
    assert kept("amx", "scalar", "vnni") == ["amx", "vnni"]
    assert kept() == []
