"""Floor 3: how a global budget is spread over the sites. One allocation a file."""

from rarefy.core.registry import import_all

import_all(__name__, __path__)
