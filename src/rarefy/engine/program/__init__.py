"""Regions of a captured graph as native programs: no Python, no allocation and no torch dispatch between layers."""

from rarefy.engine.program.apart import in_parts, part_variants
from rarefy.engine.program.place import outside, with_programs
from rarefy.engine.program.region import Refused, Region

__all__ = ["Refused", "Region", "in_parts", "outside", "part_variants", "with_programs"]
