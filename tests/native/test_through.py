"""Two products in one, where what is between them stays in a core's caches: bit for bit what the two give apart."""

import pytest
import torch
from oracle import normal, sparse

from rarefy import ops
from rarefy.ops.packed import ACTIVATIONS

TILED = [k.name for k in ops.kernels() if k.op == "spmm"]
WIDE = [k.name for k in ops.kernels() if k.op == "spmm" and k.tile[1] >= 32]  # narrower: not worth it
FLOATS = [k for k in ops.kernels() if (k.weights, k.activations) == ("fp32", "fp32")]
OTHERS = [k.name for k in FLOATS if k.op not in ("spmm", "nmg")]  # nmg holds one kind of support only
pytestmark = pytest.mark.skipif(not TILED, reason="the native module is not built")


def through(first, second, x, biases, activations, threads=2):
    """(whether it was done, the outputs; -7 where nothing was written)"""
    y = torch.full((x.shape[0], second.shape[0]), -7.0)
    at = [0 if bias is None else bias.data_ptr() for bias in biases]
    numbers = [ACTIVATIONS.index(name) for name in activations]
    ends = at[0], numbers[0], at[1], numbers[1]
    done = first.layout.multiply_through(second.layout, x.data_ptr(), x.shape[0], *ends, y.data_ptr(), threads)
    return done, y


def apart(first, second, x, biases, activations):
    return second.multiply(first.multiply(x, biases[0], activations[0]), biases[1], activations[1])


def pair(names, sizes=(70, 200, 61), density=0.3):
    first, second = sparse(sizes[1], sizes[0], density), sparse(sizes[2], sizes[1], density, seed=1)
    return ops.pack(first, names[0]), ops.pack(second, names[1]), (normal(sizes[1]), normal(sizes[2], seed=2))


@pytest.mark.parametrize("name", WIDE)
def test_token_counts_around_the_tiles_edges(name):
    first, second, biases = pair((name, name))
    for tokens in (17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300):
        x = normal(tokens, 70, seed=tokens)
        done, y = through(first, second, x, biases, ("relu", "none"), threads=1)
        assert done
        assert torch.equal(y, apart(first, second, x, biases, ("relu", "none")))


@pytest.mark.parametrize("name", WIDE)
def test_sizes_around_every_bands_and_panels_edge(name):
    kernel = {k.name: k for k in ops.kernels()}[name]
    depth = kernel.tile[2]
    for between in (1, 16, depth - 1, depth, depth + 1, 191, 192, 193, 2 * depth + 5):
        first, second, biases = pair((name, name), (33, between, 50))
        x = normal(64, 33, seed=between)
        done, y = through(first, second, x, biases, ("none", "none"), threads=1)
        assert done
        assert torch.equal(y, apart(first, second, x, biases, ("none", "none")))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", WIDE)
def test_activations_with_and_without_bias(name, activation):
    first, second, biases = pair((name, name))
    x = 3 * normal(96, 70)
    for ends in (biases, (None, biases[1]), (biases[0], None), (None, None)):
        done, y = through(first, second, x, ends, (activation, activation), threads=1)
        assert done
        assert torch.equal(y, apart(first, second, x, ends, (activation, activation)))


@pytest.mark.parametrize("name", WIDE)
def test_threads_share_the_tokens(name):
    first, second, biases = pair((name, name), (200, 300, 200), 0.5)  # work enough for four
    x = normal(256, 200)
    want = apart(first, second, x, biases, ("silu", "none"))
    for threads in (1, 2, 4):
        done, y = through(first, second, x, biases, ("silu", "none"), threads)
        assert done
        assert torch.equal(y, want)


@pytest.mark.parametrize("name", WIDE)
def test_two_kernels(name):
    for other in WIDE:
        first, second, biases = pair((name, other))
        x = normal(128, 70)
        done, y = through(first, second, x, biases, ("gelu", "none"), threads=1)
        assert done
        assert torch.equal(y, apart(first, second, x, biases, ("gelu", "none")))


@pytest.mark.parametrize("name", WIDE)
def test_a_token_that_is_no_number_spoils_no_other(name):
    first, second, biases = pair((name, name))
    x = normal(64, 70)
    clean = through(first, second, x, biases, ("relu", "none"), threads=1)[1]
    x[5], x[40] = float("nan"), float("inf")
    done, y = through(first, second, x, biases, ("relu", "none"), threads=1)
    others = [t for t in range(64) if t not in (5, 40)]
    assert done
    assert torch.equal(y[others], clean[others])
    empty = torch.zeros(61, 200)
    empty[3, 7] = 1.0
    alone = ops.pack(empty, name)  # rows without an entry that reads a number that is none stay what their bias is
    done, y = through(first, alone, x, biases, ("relu", "none"), threads=1)
    rows = [r for r in range(61) if r != 3]
    assert torch.equal(y[:, rows], biases[1][rows].expand(64, -1))


def test_what_does_not_fit_is_left_alone():
    first, second, biases = pair((WIDE[0], WIDE[0]))

    def refused(one, two, tokens, threads=1):
        done, y = through(one, two, normal(tokens, 70), biases, ("none", "none"), threads)
        return not done and torch.equal(y, torch.full_like(y, -7.0))

    assert refused(first, second, 16)  # too few tokens
    assert not refused(first, second, 128)
    wide = pair((WIDE[0], WIDE[0]), (70, 6000, 61), 0.02)  # more between them than stays in the caches
    assert refused(wide[0], wide[1], 128)
    many = pair((WIDE[0], WIDE[0]), (800, 1000, 100), 0.9)  # weights that would pass by for each tile of tokens
    done, _ = through(many[0], many[1], normal(128, 800), many[2], ("none", "none"), threads=1)
    assert not done
    for name in OTHERS:
        other = ops.pack(sparse(61, 200, 0.3, seed=1), name)
        assert refused(first, other, 128)
    big = pair((WIDE[0], WIDE[0]), (500, 700, 500), 0.5)
    x = normal(32, 500)
    done, _ = through(big[0], big[1], x, big[2], ("none", "none"), threads=2)
    assert not done  # one tile of tokens: the second thread would have nothing to do
