"""Predictors as they lie beside the weights: what a choice is made from, where, and for which features."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rarefy.core.errors import FileError
from rarefy.selectors.attach import InputSelector
from rarefy.selectors.foreseen import Foreseen, Watch, watches
from rarefy.selectors.likeliest import Likeliest
from rarefy.selectors.predictor import Predictor


def foreseen_out(model: nn.Module, name: str, selector: Foreseen) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is said of the choice that `name` uses, and its predictor's state. Raises FileError for what no file holds.

    said: source, the layer from whose input it is made; selected, whether a selector on that input comes first; kept,
    spread and full as `Likeliest` has them.
    """
    choose = selector.choose
    if type(choose) is not Likeliest or type(choose.predictor) is not Predictor:
        kind = getattr(choose, "__name__", type(choose).__name__)
        raise FileError(
            f"save: what {name} uses is foreseen by {kind}, which no file holds; a Likeliest of a Predictor can be "
            "stored, or take it off with rarefy.selectors.detach(model) first"
        )
    sources = {at: m for at, m in model.named_modules() if any(w.foreseen is selector for w in watches(m))}
    if len(sources) != 1:
        where = f"at {', '.join(sources)}" if sources else "nowhere in the model"
        raise FileError(f"save: what {name} uses is foreseen {where}; watch it at one layer of the model that is saved")
    [(source, module)] = sources.items()
    said: dict[str, Any] = {"source": source, "selected": _behind_selector(module, selector)}
    said |= {"kept": choose.kept, "spread": choose.spread, "full": choose.full}
    return said, choose.predictor.state_dict()


def _behind_selector(source: nn.Module, foreseen: Foreseen) -> bool:
    """Whether the choice is made from what a selector of the source's input has left."""
    hooks = list(source._forward_pre_hooks.values())
    at = next(i for i, hook in enumerate(hooks) if isinstance(hook, Watch) and hook.foreseen is foreseen)
    return any(isinstance(hook, InputSelector) for hook in hooks[:at])


def foreseen_in(said: Mapping[str, Any], state: Mapping[str, Tensor]) -> Foreseen:
    """The choice, made nowhere yet. Raises ShapeError or SparsityError where its parts do not fit each other."""
    net, full = Predictor.of(state), said["full"]
    choose = Likeliest(net, int(said["kept"]), int(said["spread"]), None if full is None else float(full))
    return Foreseen(choose, net.second.out_features * choose.spread)
