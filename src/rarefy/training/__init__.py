"""Floor 5: training that is sparse from the start, becomes sparse, or moves its zeros."""

from rarefy.core.registry import import_all
from rarefy.training.method import SparseMethod
from rarefy.training.trainer import SparseTrainer

import_all(__name__, __path__)

__all__ = ["SparseMethod", "SparseTrainer"]
