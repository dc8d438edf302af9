"""Floor 3: which supports are allowed. One pattern a file."""

from rarefy.core.registry import import_all

import_all(__name__, __path__)
