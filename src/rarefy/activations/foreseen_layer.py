"""A layer with a predictor: how good it is, and how its choice hangs on the model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rarefy.activations.head_places import Heads
from rarefy.activations.hidden import activation_of
from rarefy.activations.predictor import Predictor, fit_predictor, recall, top
from rarefy.core.errors import ModelError
from rarefy.selectors import FeedForward, select_hidden, select_inputs
from rarefy.selectors.foreseen import Foreseen
from rarefy.selectors.likeliest import Likeliest
from rarefy.selectors.matrix import weight_of


@dataclass(frozen=True, eq=False)
class ForeseenLayer:
    """One layer's predictor and how good it is on text that it was not trained on.

    kind: "neurons" or "heads"; kept of total; recall: share of what matters that it keeps; static: the same of the
    `kept` most frequent ones, chosen once; source: the layer whose input it reads.
    """

    name: str
    kind: str
    kept: int
    total: int
    recall: float
    static: float
    source: str
    predictor: Predictor


@dataclass(frozen=True, eq=False)
class Foresight:
    """What was trained and hung on the model; `remove` takes it off."""

    layers: tuple[ForeseenLayer, ...]
    handles: tuple[RemovableHandle, ...]

    def recall(self, kind: str) -> float:
        """Mean over the layers of a kind, "neurons" or "heads". ModelError where none of it was trained."""
        found = [layer.recall for layer in self.layers if layer.kind == kind]
        if not found:
            kinds = sorted({layer.kind for layer in self.layers})
            raise ModelError(f"Foresight.recall: no predictor of {kind!r} was trained; there are those of {kinds}")
        return sum(found) / len(found)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def __str__(self) -> str:
        lines = [f"{'layer':<32} kind     kept      recall  static"]
        for x in self.layers:
            lines.append(f"{x.name:<32} {x.kind:<8} {x.kept:>4}/{x.total:<5}{x.recall:6.1%} {x.static:6.1%}")
        return "\n".join(lines)


def fitted(
    name: str,
    kind: str,
    k: int,
    source: str,
    data: Sequence[Mapping[str, Tensor]],
    labels: Sequence[Tensor],
    **net: Any,
) -> ForeseenLayer:
    """A layer's predictor, trained on the first of `data` and `labels`, judged on the second; net: for the fit."""
    found = fit_predictor(data[0][f"{source} in"], labels[0], **net)
    often = labels[0].float().mean(0).expand(len(labels[1]), -1)
    share = recall(top(found(data[1][f"{source} in"]), k), labels[1])
    return ForeseenLayer(name, kind, k, labels[0].shape[1], share, recall(top(often, k), labels[1]), source, found)


def hung(found: Iterable[ForeseenLayer], attach: Callable[[ForeseenLayer], list[RemovableHandle]]) -> Foresight:
    """Attaches every layer's choice; where one is refused, those before it are taken off again."""
    made, handles = tuple(found), list[RemovableHandle]()
    try:
        for one in made:
            handles += attach(one)
    except BaseException:
        for handle in handles:
            handle.remove()
        raise
    return Foresight(made, tuple(handles))


def attach_neurons(layer: FeedForward, made: ForeseenLayer, source: nn.Module) -> list[RemovableHandle]:
    """Hangs the choice of neurons on a feed-forward layer: made where `source` is called, used on the activation.

    A gated layer calls its gate before its activation, and what its gate reads is what its up projection reads.
    """
    chosen = Foreseen(Likeliest(made.predictor, made.kept), made.total)
    where = layer.gate if source is layer.up and layer.gate is not None else source
    return [select_hidden(activation_of(layer), chosen), chosen.watch(where)]  # what may be refused first


def attach_heads(head: Heads, made: ForeseenLayer, source: nn.Module) -> list[RemovableHandle]:
    """Hangs the choice of heads on an attention layer: made from its input, used where its heads are joined."""
    width = weight_of(head.join).shape[1]
    chosen = Foreseen(Likeliest(made.predictor, made.kept, spread=width // head.groups), width)
    return [select_inputs(head.join, chosen), chosen.watch(source)]


def attach_oracle(layer: FeedForward) -> list[RemovableHandle]:
    """The choice that a predictor of recall 1 would make for a ReLU layer: exactly the neurons that fire."""
    first = layer.gate if layer.gate is not None else layer.up
    bias = getattr(first, "bias", None)

    def choose(x: Tensor) -> Tensor:
        y = x @ weight_of(first).T
        return (y if bias is None else y + bias) > 0

    chosen = Foreseen(choose, weight_of(layer.down).shape[1])
    return [select_hidden(activation_of(layer), chosen), chosen.watch(first)]
