"""Floor 4: running data through a model, block by block, and collecting what methods need."""

from rarefy.calibration.batches import as_batches, runner
from rarefy.calibration.gradients import collect_gradients
from rarefy.calibration.walk import collect, walk
from rarefy.calibration.whole_model import collect_whole

__all__ = ["as_batches", "collect", "collect_gradients", "collect_whole", "runner", "walk"]
