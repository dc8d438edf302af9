"""The weights that are trained sparse: every matrix of linear, convolutional, recurrent and attention layers."""

from collections.abc import Collection, Iterator, Sequence

from torch import nn

from rarefy.core.errors import ModelError
from rarefy.core.site import OTHER_CONVOLUTIONS, RECURRENT, Site, is_prunable, matches


def _matrices(module: nn.Module, embeddings: bool) -> list[str]:
    """The names of the module's own parameters that are trained sparse."""
    if is_prunable(module) or isinstance(module, OTHER_CONVOLUTIONS):
        return ["weight"]
    if isinstance(module, RECURRENT):
        return [name for name, _ in module.named_parameters(recurse=False) if name.startswith("weight_")]
    if isinstance(module, nn.MultiheadAttention):
        return [
            n
            for n in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            if module._parameters[n] is not None
        ]
    if embeddings and isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return ["weight"]
    return []


def _candidates(model: nn.Module, embeddings: bool) -> Iterator[tuple[str, nn.Module, str]]:
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute in _matrices(module, embeddings):
            parts = [path or type(module).__name__, *([] if attribute == "weight" else [attribute])]
            yield ".".join(parts), module, attribute


def find_weights(
    model: nn.Module, ignore: Sequence[str] = (), *, embeddings: bool = False, frozen: Collection[str] = ()
) -> tuple[list[Site], list[str]]:
    """The weights of a model in definition order, and the names that `ignore` left out.

    Weights that do not require a gradient are left out too, but those that `frozen` names. embeddings: whether
    embedding tables count. Parameters that several modules share become one weight, ignored if any of its names is.
    Prefixes that wrappers put before a name (`_orig_mod`, `module`) are dropped. An entry of `ignore` that matches
    nothing is an error, and so is a model with nothing left.
    """
    patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    groups: dict[int, list[tuple[str, nn.Module, str]]] = {}
    trained: set[int] = set()
    for name, module, attribute in _candidates(_unwrapped(model), embeddings):
        parameter = module._parameters.get(attribute)
        if not matches(name, patterns):
            _require_trainable(name, module, parameter)
        key = id(module if parameter is None else parameter)
        groups.setdefault(key, []).append((name, module, attribute))
        if parameter is None or parameter.requires_grad or name in frozen:
            trained.add(key)
    groups = {key: group for key, group in groups.items() if key in trained}
    everything = [name for group in groups.values() for name, _, _ in group]
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in everything):
            raise ModelError(f"ignore: {pattern!r} matches no layer; the layers are {everything[:8]}...")
    weights, ignored = [], []
    for group in groups.values():
        names = [name for name, _, _ in group]
        if any(matches(name, patterns) for name in names):
            ignored.extend(names)
            continue
        for name, module, _ in group:
            if embeddings and getattr(module, "sparse", False):
                raise ModelError(
                    f"{name}: an {type(module).__name__} with sparse=True, whose gradient lacks the rows that no token "
                    f"asked for; make it with sparse=False, or leave it alone with ignore=[{name!r}]"
                )
        modules = tuple({id(module): module for _, module, _ in group}.values())
        weights.append(Site(names[0], modules, tuple(dict.fromkeys(names[1:])), group[0][2]))
    if not weights:
        why = (
            f"all {len(everything)} are ignored"
            if everything
            else "it has no trainable linear, convolutional or recurrent weight"
        )
        raise ModelError(f"{type(model).__name__}: nothing to train sparse: {why}; nothing was changed")
    return weights, ignored


def _require_trainable(name: str, module: nn.Module, parameter: nn.Parameter | None) -> None:
    """Refuses a weight that is no parameter, or none yet."""
    if parameter is None:
        raise ModelError(
            f"{name}: is no parameter but computed from others (weight_norm, torch.nn.utils.prune, ...); "
            f"make it one or leave the layer alone with ignore=[{name!r}]"
        )
    if isinstance(parameter, nn.UninitializedParameter):
        raise ModelError(
            f"{name}: a {type(module).__name__} whose weight has no shape yet; call the model on a batch, then "
            f"make the optimizer and the trainer, or leave the layer alone with ignore=[{name!r}]"
        )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile` and data-parallel wrappers."""
    for attribute in ("_orig_mod", "module"):
        inside = model._modules.get(attribute)
        if isinstance(inside, nn.Module) and len(model._modules) == 1 and not list(model.parameters(recurse=False)):
            return _unwrapped(inside)
    return model
