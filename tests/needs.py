"""Marks of tests that need something which is not there everywhere."""

import pytest

from rarefy.ops import available

needs_native = pytest.mark.skipif(not available(), reason="the native module is not built")
