"""What a method must know beside the weight: declared, collected once, handed over by name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from torch import Tensor

from rarefy.core.errors import EvidenceError


class Need(Enum):
    """One line a kind of evidence; `calibration.collectors` has one collector for each.

    `n` is the site's input width; a grouped convolution adds a leading axis of groups to each. The wanted output
    is the dense model's, on the dense model's inputs, plus what the residual stream that it is added to lacks
    by then (see `calibration.paired`).
    """

    INPUT_SQNORM = "sum over tokens of x_j^2, (n,)"
    INPUT_GRAM = "sum over tokens of x x^T, (n, n)"
    INPUT_MEAN = "mean over tokens of x_j, (n,)"
    WANTED_CROSS = "sum over tokens of t x^T, t the output wanted of the layer, (out, n)"
    GRADIENT = "mean over batches of dL/dW, (out, n)"
    SQUARED_GRADIENT = "mean over batches of (dL/dW)^2, (out, n)"
    HESSIAN_GRADIENT = "H g, the Hessian of L times its gradient, means over batches, (out, n)"
    ZEROTH_ORDER = "mean over batches and noises z of |L(W + eps z) - L(W - eps z)| / (2 eps), ()"
    REGIONAL_GRADIENT = "root mean square over batches of d|f(x)|/dW / sqrt(tokens), f the site's block, (out, n)"
    PER_SAMPLE_GRADIENT = "dL_i/dW of each sample i alone, (out, n, samples)"
    FISHER_DIAGONAL = "mean over samples of (dL_i/dW)^2, (out, n)"
    HESSIAN_DIAGONAL = "diagonal of the Hessian of the mean loss, (out, n)"
    CHOSEN_MASK = "1 where the mask that was found for all sites together keeps, else 0, (out, n)"
    SYNAPTIC_FLOW = "dR/d|W|, R the sum of the outputs of the model of absolute weights on ones, (out, n)"

    @property
    def wants_loss(self) -> bool:
        """Whether collecting it takes the user's loss of the whole model."""
        return self in _OF_THE_LOSS

    @property
    def of_the_model(self) -> bool:
        """Whether it is collected from the whole model before any layer is visited."""
        return self.wants_loss or self is Need.SYNAPTIC_FLOW

    @property
    def of_the_weights(self) -> bool:
        """Whether it has an entry for each weight, (out, n), also where a convolution has groups."""
        return self is Need.REGIONAL_GRADIENT or (self.of_the_model and self is not Need.ZEROTH_ORDER)

    @property
    def of_the_inputs(self) -> bool:
        """Whether it is a sum over the rows that enter the site."""
        return not (self.of_the_model or self.of_the_weights)


_OF_THE_LOSS = frozenset(
    {Need.GRADIENT, Need.SQUARED_GRADIENT, Need.HESSIAN_GRADIENT, Need.ZEROTH_ORDER, Need.CHOSEN_MASK}
    | {Need.PER_SAMPLE_GRADIENT, Need.FISHER_DIAGONAL, Need.HESSIAN_DIAGONAL}
)


@dataclass(frozen=True)
class Evidence(Mapping[Need, Tensor]):
    """Evidence about one site. Asking for what was not collected names the need, the site and the remedy.

    tokens: how many rows of input were seen (0 without data); fan_in: `Site.fan_in`, None where that is the width.
    """

    site: str
    collected: Mapping[Need, Tensor] = field(default_factory=dict)
    tokens: int = 0
    seed: int = 0
    fan_in: float | None = None

    def __getitem__(self, need: Need) -> Tensor:
        if need not in self.collected:
            raise EvidenceError(
                f"{self.site}: evidence {need.name} ({need.value}) was not collected; "
                "list it in the method's `needs` and give `data`" + (" and `loss`" if need.wants_loss else "")
            )
        return self.collected[need]

    def of_group(self, index: int, groups: int) -> "Evidence":
        """The part of one group of a grouped convolution: inputs have a leading axis of groups, what has an entry for
        each weight is cut by rows; what belongs to the layer as a whole stays."""
        if groups == 1:
            return self
        values = {
            need: value.chunk(groups)[index] if need.of_the_weights else value[index] if need.of_the_inputs else value
            for need, value in self.collected.items()
        }
        return Evidence(self.site, values, self.tokens, self.seed + index, self.fan_in)

    def __iter__(self) -> Iterator[Need]:
        return iter(self.collected)

    def __len__(self) -> int:
        return len(self.collected)
