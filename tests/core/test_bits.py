import pytest
import torch

from rarefy.core.bits import pack_bits, padding_is_clear, unpack_bits


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 16, 21])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_round_trip(rows: int, n: int) -> None:
    mask = torch.rand(rows, n) < 0.4
    bits = pack_bits(mask)
    assert bits.shape == (rows, (n + 7) // 8)
    assert torch.equal(unpack_bits(bits, n), mask)
    assert padding_is_clear(bits, n)


def test_bit_order_is_least_significant_first() -> None:
    mask = torch.tensor([[True, False, True, False, False, False, False, False, False, True]])
    assert pack_bits(mask).tolist() == [[0b00000101, 0b00000010]]


def test_set_padding_is_seen() -> None:
    bits = torch.tensor([[0b00000101, 0b00000110]], dtype=torch.uint8)
    assert not padding_is_clear(bits, 10)
    assert padding_is_clear(bits, 11)
