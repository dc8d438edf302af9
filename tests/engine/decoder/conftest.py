"""The models of language_models.py as fixtures."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # language_models.py, for the tests beside it

from language_models import CLASSES, build, compiled


@pytest.fixture(scope="module", params=list(CLASSES))
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """(source, compiled) of each class in turn."""
    model = build(request.param)
    return model, compiled(model)
