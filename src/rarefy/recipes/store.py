"""`rarefy.save` and `rarefy.load`: a model as a folder of safetensors, smaller because of its zeros."""

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from rarefy.activations.rotation import turned_modules
from rarefy.activations.ternary import ternary_layers
from rarefy.analysis.secretly_linear import LinearBlock
from rarefy.core.errors import FileError, ModelError
from rarefy.engine import Compiled, CompiledDecoder
from rarefy.engine.compile import compile_again
from rarefy.engine.decoder.restore import restored_decoder
from rarefy.engine.restore import restored
from rarefy.formats.container import Contents, Widths, prepare, write
from rarefy.formats.folder import read_contents, weights_path
from rarefy.recipes.store_activations import (
    class_weights,
    extra_names,
    forget_activations,
    restore_activations,
    transposes,
    write_activations,
)
from rarefy.recipes.store_carry import carry_companions, origin_of
from rarefy.recipes.store_codes import attach_grids, codes_by_name
from rarefy.recipes.store_config import is_hugging_face, write_config
from rarefy.recipes.store_engine import forget_engine, read_engine, write_engine
from rarefy.recipes.store_hf import build
from rarefy.recipes.store_packed import packed_only, stored_layers, stored_weights, without
from rarefy.recipes.store_report import SaveReport
from rarefy.recipes.store_split import FORMAT as split_layers
from rarefy.recipes.store_split import split_modules
from rarefy.recipes.store_state import collect, fill
from rarefy.recipes.store_widths import widths_of


def save(model: nn.Module, path: str | Path, *, carry: str | Path | bool | None = True) -> SaveReport:
    """Writes a model to a folder, or its weights alone to a path that ends in `.safetensors`.

    Tensors are stored sparse where that is smaller, weights that were rounded while they were pruned as their integers
    and scales. Of a Hugging Face model the config is written too, and the small companion files (tokenizer, pooling,
    ...) of the folder that it was loaded from, if that is still there, or of the folder `carry`; `carry=False` copies
    none. Layers that were cut to widths which no config says come back with them. Of a compiled model the model that
    was compiled is saved. The selectors of `sparsify_activations` go into a folder with
    it, not into a single file. Every file is replaced as a whole, the weights last: if the disk is full or the process
    is killed, the old weights are still there.

    Raises ModelError (something that cannot be stored without pickling) or FileError (it could not be written).
    """
    path, source = Path(path), _source(model)
    weights = weights_path(path)
    if weights.parent == path:
        _require_settled(source)
    tensors, aliases = collect(source)
    beside = {name: tensors.pop(name) for name in extra_names(source)} if weights.parent == path else {}
    tensors |= class_weights(source, tensors) if weights.parent == path else {}
    known = is_hugging_face(source) and weights.parent == path
    widths = widths_of(source, tensors) if known else Widths()
    prepared = prepare(tensors, aliases, codes_by_name(source, tensors), widths)
    extra: list[str] = []
    if weights.parent == path:
        forget_engine(path)
        extra += write_activations(source, path, beside, prepared)
        if carry is True:
            carry = origin_of(source)
        if carry:
            extra += carry_companions(Path(carry), path)
        if known:
            extra += write_config(source, path, prepared.stored, whole=_only_ours(source, tensors, widths))
    write(weights, prepared)
    if weights.parent == path:
        forget_activations(path, kept=extra)
    if isinstance(model, Compiled | CompiledDecoder) and weights.parent == path:
        extra += write_engine(model, path)
    return SaveReport(str(path), prepared.stored, aliases, weights.stat().st_size, tuple(sorted(set(extra))))


def load(
    path: str | Path, *, model: nn.Module | None = None, compiled: bool = True, capture: bool = False
) -> nn.Module:
    """The model that `save` wrote; a compiled model comes back compiled, unless `compiled` is False.

    A Hugging Face model is built by transformers from the class that its config names, without random
    initialisation, and returned in evaluation mode. Anything else is filled into `model`, which must have exactly
    the tensors of the file: a class is never imported because a file names it.

    Weights are mapped into memory from the file. A compiled model is packed for the kernels that were chosen when it
    was compiled, runs layer by layer, and keeps no dense copy of what is packed; the packed weights are kept beside the
    measured times (`rarefy cache`) and mapped, so that processes share them. On another CPU it is compiled again.
    capture: also captures its graph again, which takes seconds and runs faster. A model with native convolutions runs
    as it was compiled in any case.

    Raises FileError that names the tensor which is damaged, missing, unexpected or of another shape; a given
    `model` is then as it was.
    """
    path = Path(path)
    contents = read_contents(path, mapped=True)
    engine = read_engine(path) if compiled and path.is_dir() else None
    if engine is None:
        return _plain(path, contents, model)
    choices, explanation = engine
    why = choices.why_not_here()
    if capture and why is None and not choices.of_decoder and choices.convs is None:  # these have theirs, or none
        return compile_again(_plain(path, contents, model), choices, None)
    if why is not None:
        return compile_again(_plain(path, contents, model), choices, f"compiled again here: {why}")
    taken = {} if choices.needs_source or transposes(path) else packed_only(contents, choices)
    slim = without(contents, taken)
    if choices.of_decoder:
        layers = stored_layers(taken, contents.fingerprint)
        return restored_decoder(_plain(path, slim, model), choices, layers, explanation)
    return restored(_plain(path, slim, model), choices, stored_weights(taken, contents.fingerprint), explanation)


def _plain(path: Path, contents: Contents, model: nn.Module | None) -> nn.Module:
    """The model as it was given to `compile`, or to `save`."""
    if model is not None:
        fill(model, contents, path)
        return _dressed(model, contents, path)
    if not (path / "config.json").exists():
        raise FileError(
            f"load: {path} holds weights but no config.json that says which Hugging Face class they belong to, and "
            "rarefy imports no class by a name in a file; build the module and give it as load(path, model=module)"
        )
    return _dressed(build(path, contents), contents, path)


def _dressed(model: nn.Module, contents: Contents, path: Path) -> nn.Module:
    """The model with what rarefy hung on it: grids, selectors, turned bases."""
    attach_grids(model, contents)
    restore_activations(model, path, contents)
    return model


def _require_settled(model: nn.Module) -> None:
    if found := next(iter(ternary_layers(model)), None):
        raise ModelError(
            f"save: {found} trains the weight behind ternary values, which a model of its class has no place for; call "
            "rarefy.activations.q_sparse.settle(model) first (of a copy.deepcopy where training goes on), or keep "
            "model.state_dict() with torch.save"
        )
    replaced = (name for name, module in model.named_modules() if isinstance(module, LinearBlock))
    if is_hugging_face(model) and (found := next(replaced, None)):
        raise ModelError(
            f"save: {found} is a linear map in the place of a block, which no config.json tells of; save to a path "
            "that ends in .safetensors, and load that with model= after the same replace_block"
        )


def _source(model: object) -> nn.Module:
    """The model itself: what rarefy or torch compiled is the same weights in another dress."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"save: {type(model).__name__} is not an nn.Module; give the model itself")
    if isinstance(model, Compiled | CompiledDecoder):
        return _source(model.as_given("save"))
    compiled_here = type(model).__module__.startswith("rarefy.engine")
    inner = getattr(model, "source" if compiled_here else "_orig_mod", None)  # _orig_mod: torch.compile
    return _source(inner) if isinstance(inner, nn.Module) else model


def _only_ours(model: nn.Module, names: Iterable[str], widths: Widths) -> str | None:
    """The format to name where config.json and the weights are not enough to build the model, None where they are."""
    if any(turned_modules(model)):
        return "rarefy-turned"
    return split_layers if split_modules(names) else "rarefy-widths" if widths.resized else None
