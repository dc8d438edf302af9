import pytest
import torch


@pytest.fixture
def with_threads():
    """Sets torch's threads for a test; the machine's setting comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
