"""TEAL: the small inputs of every projection are dropped, by thresholds from calibration."""

from dataclasses import dataclass

from rarefy.activations.allocate import STEP, Allocation
from rarefy.activations.inputs import sparsify_inputs
from rarefy.activations.job import Job, Placed
from rarefy.activations.quantiles import Form
from rarefy.core.registry import method


@method(
    "teal", role="selector", protocols=("selector", "method"), source="Liu et al. 2024, arXiv:2408.14690, algorithm 1"
)
@dataclass(frozen=True)
class Teal:
    """Keeps inputs with |x_j| above a quantile of their place, the shares spread greedily within each block.

    form: "threshold", or "top-k" for an exact count a token. allocation: "greedy", "uniform", or the shares
    {place: zeros} of an earlier report. step: the share of a block that one greedy step makes sparse. settle: how often
    the thresholds are set anew on the model that is sparse already (0: the paper's, which then drops up to 5 points
    more than asked in late places).
    Differs: see `allocate`; prefill is as sparse as decoding.
    """

    form: Form = "threshold"
    allocation: Allocation = "greedy"
    step: float = STEP
    settle: int = 1

    def __call__(self, job: Job) -> list[Placed]:
        return sparsify_inputs(job, form=self.form, allocation=self.allocation, step=self.step, settle=self.settle)
