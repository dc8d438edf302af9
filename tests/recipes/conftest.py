"""What the recipes share: fixtures of the engine's tests, and transformers as it was."""

from collections.abc import Iterator

import pytest

from engine.conftest import prefer as prefer


@pytest.fixture
def transformers_tables() -> Iterator[None]:
    """transformers' tables of quantizers, and what asks them, are after the test what they were before it."""
    from transformers import modeling_utils
    from transformers.quantizers import auto

    tables = (auto.AUTO_QUANTIZATION_CONFIG_MAPPING, auto.AUTO_QUANTIZER_MAPPING)
    held = [dict(table) for table in tables]
    asks = modeling_utils.get_hf_quantizer
    yield
    modeling_utils.get_hf_quantizer = asks
    for table, old in zip(tables, held, strict=True):
        table.clear()
        table.update(old)
