"""The weight of a linear layer as `(out, in)`, whichever way the class stores it."""

from torch import Tensor, nn

from rarefy.core.shapes import Weight


def is_linear(module: object) -> bool:
    """Whether a module has a 2-d `weight` that its input meets: nn.Linear, transformers' Conv1D, or like them."""
    if isinstance(module, nn.Embedding) or not isinstance(module, nn.Module):
        return False
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 2


def weight_of(module: nn.Module) -> Weight:
    """The weight `(out, in)`; a view where the class stores `(in, out)`."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().t() if type(module).__name__ == "Conv1D" else weight.detach()
