"""The fastest way to run a whole model on one example, among those whose outputs are right."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from rarefy.engine.capture import Example
from rarefy.engine.compiled import Compiled
from rarefy.engine.differ import differs
from rarefy.engine.precision import Precision
from rarefy.engine.timing import interleaved
from rarefy.engine.variant import Variant
from rarefy.engine.whole import choose


def call(model: Callable[..., Any], example: Example) -> Any:
    """What the model gives for the example."""
    args, kwargs = example
    return model(*args, **kwargs)


def copied(example: Example) -> Example:
    """The same inputs for a model that may write into them."""
    same: Example = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, example)
    return same


def fastest(
    example: Example,
    candidates: Mapping[str, Callable[..., Any]],
    notes: list[str],
    *,
    layers: nn.Module,
    count: int | None,
    key: str | None,
    precision: Precision,
) -> tuple[Variant, dict[str, Any], set[str]]:
    """The fastest of the candidates whose outputs are right, timed in interleaved rounds or as the cache has it; and
    those whose outputs are not.

    key: of the model in the cache; None times nothing and takes what is likely fastest.

    They are timed as they will be called, through `Compiled`, whose own cost can decide for a very small model.
    """
    with torch.inference_mode():
        reference = call(candidates["source"], copied(example))
        right = {"source": candidates["source"]}
        moved = {"source": 0.0}
        for name, run in candidates.items():
            try:
                why, moved[name] = (
                    (None, 0.0) if name == "source" else differs(call(run, copied(example)), reference, precision)
                )
            except Exception as error:
                why = f"fails with {type(error).__name__}: {error}"
            if why is not None:
                notes.append(f"note: the variant '{name}' is not used: it {why}")
            else:
                right[name] = run
        source = candidates["source"]
        assert isinstance(source, nn.Module)
        dressed: dict[str, Callable[..., Any]] = {
            name: Compiled(source, layers, [Variant(example, run, name)], None, count) for name, run in right.items()
        }
        dressed["source"] = source
        calls = {name: partial(call, run, example) for name, run in dressed.items()}
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in tree_leaves(example) if isinstance(leaf, Tensor))
        best, said = choose(right, None if key is None else f"{key} inputs {shapes}", partial(interleaved, calls))
    runs = "the model as it was given (nothing faster)" if best == "source" else f"the sparse {best}"
    times = {"inputs": shapes, **said, "runs": runs, "difference": moved[best]}
    return Variant(example, right[best], best), times, candidates.keys() - right.keys()
