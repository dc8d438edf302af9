"""Floor 5: post-training pruning. One method a file; every file here is found by the index."""

from rarefy.core.registry import import_all
from rarefy.pruning.one_shot import OneShot
from rarefy.pruning.prune import prune
from rarefy.pruning.report import PruneReport, SiteReport

import_all(__name__, __path__)

__all__ = ["OneShot", "PruneReport", "SiteReport", "prune"]
