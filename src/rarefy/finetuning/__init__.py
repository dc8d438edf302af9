"""Floor 5: training that repairs a sparse model with its zeros fixed."""

from rarefy.core.registry import import_all
from rarefy.finetuning.distill import DistillReport, distill

import_all(__name__, __path__)

__all__ = ["DistillReport", "distill"]
