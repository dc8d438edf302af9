"""Other ways to run the same model on this CPU, each behind one small protocol. None is needed; none is hidden."""

from rarefy.engine.rivals.names import RIVALS, find
from rarefy.engine.rivals.protocol import Ready, Rival

__all__ = ["RIVALS", "Ready", "Rival", "find"]
