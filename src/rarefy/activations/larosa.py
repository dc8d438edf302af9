"""LaRoSA: the k largest inputs of every token, in the basis of the principal components of each block."""

from dataclasses import dataclass, replace

from rarefy.activations.allocate import STEP, Allocation
from rarefy.activations.bases import principal
from rarefy.activations.inputs import require_options, sparsify_inputs
from rarefy.activations.job import Job, Placed
from rarefy.activations.rotation import rotate, turnable
from rarefy.activations.turning_back import turning_back
from rarefy.core.registry import method


@method("larosa", role="selector", protocols=("selector", "method"), source="Liu et al. 2025, arXiv:2507.01299")
@dataclass(frozen=True)
class LaRosa:
    """Keeps exactly k inputs a token; q, k, v, gate and up see theirs turned into principal components.

    The model's weights change (its dense function does not, to rounding): see `rotation`. The inputs of o and down are
    selected as they are. allocation: "uniform", or "greedy" as TEAL's, with its step.
    Differs: one basis a block, of the inputs of attention and feed-forward together; the paper's published text leaves
    open whether o and down are turned.
    """

    allocation: Allocation = "uniform"
    step: float = STEP

    def __call__(self, job: Job) -> list[Placed]:
        if not job.places:
            return []
        require_options(job, form="top-k", allocation=self.allocation, step=self.step, settle=0)
        found = turnable(job.model)
        bases = principal(job, found)
        job.undo.append(turning_back(found))
        added = rotate(found, bases)
        placed = sparsify_inputs(job, form="top-k", allocation=self.allocation, step=self.step, settle=0)
        return [replace(placed[0], added=added), *placed[1:]]
