"""Images: positions, windows and image tokens that a network need not compute."""

from rarefy.core.registry import import_all

import_all(__name__, __path__)
