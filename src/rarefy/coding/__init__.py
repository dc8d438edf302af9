"""Floor 5: sparse codes: which few features say what a vector holds."""

from rarefy.core.registry import import_all

import_all(__name__, __path__)
