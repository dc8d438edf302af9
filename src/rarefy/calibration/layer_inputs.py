"""What some layers read, batch by batch, tokens in rows and padding left out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import Batch, call_model, inference, token_mask
from rarefy.core.calls import first_input
from rarefy.core.errors import DataError


def layer_inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Sequence[Batch], what: str = "data"
) -> Iterator[dict[str, Tensor]]:
    """{name: (tokens, width)} for each batch: what the layer's own hooks let it read. Evaluation mode, no gradients.

    A layer that blocks share gives its tokens once a call, call by call. what: the argument that the batches were
    given as. Raises DataError naming a layer that a batch does not reach, or that reads NaN or infinity.
    """
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Any:
        return lambda module, args, kwargs: seen.setdefault(name, []).append(first_input(args, kwargs))

    with ExitStack() as stack, inference(model):
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(keep(name), with_kwargs=True).remove)
        for i, batch in enumerate(batches):
            seen.clear()
            call_model(model, batch, i, what)
            missing = [name for name in layers if name not in seen]
            if missing:
                raise DataError(f"{what}[{i}]: the model does not run {missing[0]} on this batch")
            real = token_mask(batch)
            found = {name: torch.cat([rows(x, real) for x in seen[name]]) for name in layers}
            if broken := [name for name, x in found.items() if not x.isfinite().all()]:
                raise DataError(
                    f"{what}[{i}]: what {broken[0]} reads holds NaN or infinity; check the model on this batch"
                )
            yield found


def rows(x: Tensor, real: Tensor | None) -> Tensor:
    """`(..., width)` as (tokens, width), only the real tokens where `real` (rows, tokens) counts as many as x has, also
    where the model has put them into one axis (OPT's feed-forward layers)."""
    flat = x.reshape(-1, x.shape[-1])
    return flat[real.reshape(-1).bool().to(flat.device)] if real is not None and real.numel() == len(flat) else flat
