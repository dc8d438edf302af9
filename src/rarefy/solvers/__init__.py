"""Floor 4: making one matrix sparse and repairing what is kept. One solver a file."""

from rarefy.core.registry import import_all

import_all(__name__, __path__)
