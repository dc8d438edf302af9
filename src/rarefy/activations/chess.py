"""CHESS: CATS with a threshold for each neuron, lower where the up projection is large; q and o by their inputs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from rarefy.activations.hidden import attach_hidden, hidden_thresholds
from rarefy.activations.inputs import require_settle, sparsify_inputs
from rarefy.activations.job import Job, Placed
from rarefy.calibration.taps import Mean, tap
from rarefy.core.errors import ModelError, UnknownNameError
from rarefy.core.registry import method

ATTENTION = ("q", "k", "v", "o")


@method(
    "chess", role="selector", protocols=("selector", "method"), source="He et al. 2024, arXiv:2409.01366, eqs. 7-12"
)
@dataclass(frozen=True)
class Chess:
    """Keeps neurons with |act(gate_i)| * mean|up_i| above the layer's quantile, and large inputs of `attention`.

    attention: the projections of attention whose inputs are selected by |x|, "q" and "o"; () leaves attention dense.
    settle: as TEAL's, for these inputs.
    Differs: the paper's per-channel thresholds t_i = T / m_i are kept as the weight m_i and one threshold T, which is
    the same comparison; the inputs' thresholds are settled, which the paper's are not. Gated layers only.
    """

    attention: tuple[str, ...] = ("q", "o")
    settle: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.attention, str) or (wrong := [p for p in self.attention if p not in ATTENTION]):
            given = self.attention if isinstance(self.attention, str) else wrong[0]
            raise UnknownNameError(f"chess: attention has {given!r}; give a tuple of some of {ATTENTION}, or ()")
        require_settle(self.settle)

    def __call__(self, job: Job) -> list[Placed]:
        placed = attach_hidden(job.layers, hidden_thresholds(job, mean_up(job)), job.sparsity)
        chosen = [place for place in job.places if place.part in self.attention]
        inner = replace(job, places=chosen)
        return placed + sparsify_inputs(inner, form="threshold", allocation="uniform", step=1.0, settle=self.settle)


def mean_up(job: Job) -> dict[str, Tensor]:
    """{layer: mean |up_i| over the calibration text, (neurons,) float32}."""
    _require_gated([layer.name for layer in job.layers if layer.kind != "gated"])
    seen = {layer.name: Mean() for layer in job.layers}
    tap(job.model, job.batches, outputs={layer.up: seen[layer.name].add for layer in job.layers}, run=job.run)
    return {name: mean.mean().float() for name, mean in seen.items()}


def _require_gated(plain: Sequence[str]) -> None:
    if plain:
        raise ModelError(
            f"chess: {plain[0]} has no gate, so there is no product whose other factor could be averaged; use 'cats'"
        )
