"""Floor 5: studies, laws and bounds: what can be measured or said of a sparse model. One idea a file."""

from rarefy.core.registry import import_all

import_all(__name__, __path__)
