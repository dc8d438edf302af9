"""Published sparse inference systems by name: each has its kernel and layout, where `rarefy.compile` chooses by time.

`with_system(model, "sparamx")` puts one into a model; `rarefy methods --role kernel` lists them.
"""

from rarefy.core.registry import import_all
from rarefy.engine.systems.walk import with_system

__all__ = ["with_system"]

import_all(__name__, __path__)
