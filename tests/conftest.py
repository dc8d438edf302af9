"""One thread a test process (the suite runs several side by side), and nothing from the network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ["RAREFY_TRANSFORMERS"] = "0"  # tests say themselves when transformers is taught

import gc
import itertools

import pytest
import torch
from hypothesis import settings

settings.register_profile("rarefy", deadline=None)  # what a case takes depends on the machine's other work
settings.load_profile("rarefy")

_numbers = itertools.count()


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: left out of collections, each of which else takes a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times measured, or made up, by one test are not another's; the folder is made when something is put there."""
    folder = tmp_path_factory.getbasetemp() / "caches" / str(next(_numbers))
    monkeypatch.setenv("RAREFY_CACHE_DIR", str(folder))


@pytest.fixture(autouse=True)
def _quiet_and_repeatable() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
