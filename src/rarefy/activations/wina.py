"""WINA: inputs are ranked by what they are multiplied with, too."""

from dataclasses import dataclass, replace
from typing import Any

from rarefy.activations.allocate import STEP, Allocation
from rarefy.activations.bases import reading_bases
from rarefy.activations.inputs import require_options, sparsify_inputs
from rarefy.activations.job import Job, Placed
from rarefy.activations.quantiles import Form, column_norms
from rarefy.activations.rotation import rotate, turnable
from rarefy.activations.turning_back import turning_back
from rarefy.core.registry import method


@method(
    "wina", role="selector", protocols=("selector", "method"), source="Chen et al. 2025, arXiv:2505.19427, eqs. 3-6"
)
@dataclass(frozen=True)
class Wina:
    """Keeps inputs with the largest |x_j| * ||W_:,j||_2, the best choice where W has orthogonal columns.

    form: "top-k" (an exact count a token, the paper's) or "threshold" (its run-time form). allocation, step and
    settle are as TEAL's; greedy shares, the paper's, are found with thresholds, as in the authors' code. rotate: first
    turns the model's basis so that the columns of k_proj and gate_proj are orthogonal; the dense function stays (see
    `rotation`; RMS-norm models only).
    Differs: the authors' code weights only the inputs of k and gate by the norms and takes |x_j| elsewhere.
    """

    form: Form = "top-k"
    allocation: Allocation = "greedy"
    step: float = STEP
    settle: int = 1
    rotate: bool = False

    def __call__(self, job: Job) -> list[Placed]:
        if not job.places:
            return []
        asked: dict[str, Any] = {"form": self.form, "allocation": self.allocation}
        asked |= {"step": self.step, "settle": self.settle}
        require_options(job, **asked)
        added = 0
        if self.rotate:
            found = turnable(job.model)
            bases = reading_bases(found)
            job.undo.append(turning_back(found))
            added = rotate(found, *bases)
        placed = sparsify_inputs(job, **asked, weigh=column_norms)
        return [replace(placed[0], added=added), *placed[1:]]
