import pytest
import torch

from rarefy import ops

needs_native = pytest.mark.skipif(not ops.available(), reason="the native module is not built")


@pytest.fixture(autouse=True)
def one_thread():
    """One thread unless a test asks for more; the machine's setting comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
