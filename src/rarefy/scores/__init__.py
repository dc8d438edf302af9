"""Floor 3: how much each entry matters. One score a file."""

from rarefy.core.registry import import_all

import_all(__name__, __path__)
