import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # oracle.py, for the tests beside it


@pytest.fixture(autouse=True)
def one_thread():
    """One thread unless a test asks for more; the machine's setting comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
