"""The captured graph of a model, rewritten for the plans of its layers."""

from collections.abc import Callable, Mapping

from torch import nn
from torch.fx import GraphModule

from rarefy.engine.capture import Example, capture
from rarefy.engine.fuse import describe, rewrite
from rarefy.engine.plan import LayerPlan
from rarefy.engine.program import outside, with_programs


def captured(
    model: nn.Module,
    example: Example,
    plans: Mapping[str, LayerPlan],
    tokens: Mapping[str, int],
    convs: Callable[[GraphModule], list[str]],
    capture: Callable[[nn.Module, Example], GraphModule] = capture,
) -> tuple[GraphModule | None, str]:
    """The rewritten graph of the model, or None; and what there is to say of it, or why there is none.

    convs: rewrites its convolutions and gives the sites that it did; capture: gives a graph that may be rewritten.
    """
    try:
        graph = capture(model, example)
    except Exception as error:  # whatever export cannot do runs module by module
        return None, f"torch.export did not take the model ({type(error).__name__}); layers run one by one"
    native = convs(graph)
    run, done = rewrite(graph, plans, tokens)
    said = describe(run, [*native, *done])
    with_programs(run)
    return run, f"{said}; {outside(run)}"
