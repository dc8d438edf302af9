"""CATS: neurons whose gate is near zero are dropped, one threshold a layer."""

from dataclasses import dataclass

from rarefy.activations.hidden import attach_hidden, hidden_thresholds
from rarefy.activations.job import Job, Placed
from rarefy.core.registry import method


@method(
    "cats", role="selector", protocols=("selector", "method"), source="Lee et al. 2024, arXiv:2404.08763, section 3"
)
@dataclass(frozen=True)
class Cats:
    """Keeps neurons with |act(gate)| above the layer's quantile; the sparsity is that of the hidden neurons.

    Rows of up and columns of down are saved, gate and attention stay dense. In a plain layer act(up) decides and the
    columns of down are saved.
    """

    def __call__(self, job: Job) -> list[Placed]:
        return attach_hidden(job.layers, hidden_thresholds(job), job.sparsity)
