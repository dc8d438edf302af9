"""Which runs and weights can be trained on their kept values only, and why others cannot."""

from rarefy.training import optimizers
from rarefy.training.masked import Masked
from rarefy.training.method import Opens, SparseMethod, StaysDense
from rarefy.training.ranks import several_ranks
from rarefy.training.run import Run
from rarefy.training.runtime import faces
from rarefy.training.state import WeightState


def why_never(run: Run, method: SparseMethod) -> str | None:
    """Why no layer of the run can be packed."""
    if isinstance(method.topology, StaysDense):
        return method.topology.why_dense
    if not isinstance(method.transform, Masked) or method.transform.wants_dense_grad or method.penalty is not None:
        return "the method needs dense weights or gradients at every step"
    if not isinstance(method.topology, Opens):
        return "the method looks at dense weights at every step"
    if method.prepare is not None:
        return "the method has layers of its own"
    if several_ranks():
        return "training is distributed: the ranks share gradients of dense shape"
    if type(run.optimizer) not in optimizers.ENTRYWISE:
        return f"{type(run.optimizer).__name__} is not known to treat every weight by itself"
    return None


def why_not(run: Run, state: WeightState) -> str | None:
    """Why this weight cannot be packed."""
    parameter = state.weight.parameter
    readers = [m for m in run.model.modules() if any(held is parameter for held in m._parameters.values())]
    if len(readers) > 1 or state.weight.aliases:  # an embedding may be among them
        return "several layers share it"
    return faces.why_not(state.weight.module)


def why_not_now(state: WeightState) -> str | None:
    """Why a weight that is dense cannot be packed at its count: torch would spread such values over a dense weight.

    Deep copies are dense. Where a copy is averaged with the packed parameters, all other counts are an error of torch.
    """
    if state.packed is None and state.kept in (1, state.weight.parameter.shape[-1]):
        return "it keeps one value or as many as the weight is wide, which averaging a copy would spread over its rows"
    return None
