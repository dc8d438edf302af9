"""What some layers read, batch by batch, tokens in rows and padding left out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from rarefy.calibration.batches import Batch, call_model, inference, token_mask
from rarefy.core.calls import first_input
from rarefy.core.errors import DataError


def layer_inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Sequence[Batch]
) -> Iterator[dict[str, Tensor]]:
    """{name: (tokens, width)} for each batch: what the layer's own hooks let it read. Evaluation mode, no gradients.

    Raises DataError naming a layer that a batch does not reach.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args, kwargs: seen.__setitem__(name, first_input(args, kwargs))

    with ExitStack() as stack, inference(model):
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(keep(name), with_kwargs=True).remove)
        for i, batch in enumerate(batches):
            seen.clear()
            call_model(model, batch, i)
            missing = [name for name in layers if name not in seen]
            if missing:
                raise DataError(f"data[{i}]: the model does not run {missing[0]} on this batch")
            yield {name: rows(seen[name], token_mask(batch)) for name in layers}


def rows(x: Tensor, real: Tensor | None) -> Tensor:
    """`(..., width)` as (tokens, width), only the real tokens where `real` has the leading shape of x."""
    if real is not None and x.shape[:-1] == real.shape:
        return x[real]
    return x.reshape(-1, x.shape[-1])
