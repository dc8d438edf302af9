"""Floor 3: a value over time. One schedule a file."""

from rarefy.core.registry import import_all

import_all(__name__, __path__)
