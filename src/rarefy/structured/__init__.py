"""Floor 5: whole rows, columns and units: smaller dense matrices instead of masks."""

from rarefy.core.registry import import_all

import_all(__name__, __path__)
