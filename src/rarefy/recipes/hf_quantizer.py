"""`AutoModel.from_pretrained(folder)` of transformers gives the sparse model, where transformers alone would refuse."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats import bitmask, bitmask24, codes
from rarefy.formats.container import read_file
from rarefy.formats.header import METADATA, read_header
from rarefy.formats.held import Held
from rarefy.formats.manifest import from_metadata
from rarefy.formats.names import join, names_a_parameter
from rarefy.formats.safe import check_header
from rarefy.recipes.store_resize import resize
from rarefy.recipes.store_split import FORMAT as split_layers
from rarefy.recipes.store_split import split
from rarefy.recipes.store_state import shapes

METHOD = "rarefy"
_OLD_KEY = "compression_config"
_FORMATS = ("sparse-bitmask", "sparse-24-bitmask", "rarefy-codes", "rarefy-widths", split_layers)
"""What `sparsity_config.format` may say for us to take the folder; anything else stays with compressed-tensors."""

_HEADS = 2**16  # entries of layers that may be new, as a class asks for that was not saved

_LAYOUTS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Tensor], str], Held]], ...] = (
    (bitmask.PARTS, bitmask.unpack),
    (codes.PARTS, codes.unpack),
    (bitmask24.PARTS, bitmask24.unpack),
)


def is_recent() -> bool:
    """Whether transformers is a release that can be taught (5 or later)."""
    return find_spec("transformers") is not None and find_spec("transformers.core_model_loading") is not None


def enable_transformers() -> None:
    """From now on in this process, transformers (5 or later) loads folders that `save` or `convert` wrote sparse.

    An installed rarefy calls this by itself when transformers is imported (`RAREFY_TRANSFORMERS=0` in the environment
    stops that); a source tree that is only on the path does not.

    The model comes out as an ordinary one, its zeros in place; `rarefy.compile` makes it fast. transformers' table of
    configurations is asked for `compressed-tensors` as before, but folders in `sparse-bitmask`, `sparse-24-bitmask` or
    rarefy's own layout are taken from it, which transformers no longer reads; in them `compression_config`, as
    compressed-tensors up to 0.8 called it, counts as `quantization_config`. Weights that are quantised as well stay
    with it. Calling it again changes nothing. Raises FileError if transformers is missing or too old.
    """
    if not is_recent():
        raise FileError("enable_transformers: needs transformers 5 or later; pip install -U transformers")
    from transformers import modeling_utils
    from transformers.modeling_utils import get_hf_quantizer
    from transformers.quantizers import auto

    if METHOD not in auto.AUTO_QUANTIZER_MAPPING:
        modeling_utils.get_hf_quantizer = _with_old_key(get_hf_quantizer)
        config, quantizer = _classes()
        auto.register_quantization_config(METHOD)(config)
        auto.register_quantizer(METHOD)(quantizer)
        auto.AUTO_QUANTIZATION_CONFIG_MAPPING["compressed-tensors"] = _chooser(
            config, auto.AUTO_QUANTIZATION_CONFIG_MAPPING["compressed-tensors"]
        )


def is_ours(said: Mapping[str, Any]) -> bool:
    """Whether a `quantization_config` names a sparse layout and nothing that is quantised by scales."""
    sparsity = said.get("sparsity_config")
    return isinstance(sparsity, dict) and sparsity.get("format") in _FORMATS and not said.get("config_groups")


def _chooser(ours: Any, theirs: Any) -> Any:
    """A class in the table's place: its `from_dict` gives our configuration or theirs, its instances are theirs."""

    class Chooser(theirs):
        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            return (ours if is_ours(config_dict) else theirs).from_dict(config_dict, **kwargs)

    return Chooser


def _with_old_key(choose: Callable[..., Any]) -> Callable[..., Any]:
    """transformers' choice of a quantizer, made before any weight is, for which the older key counts as the newer."""

    @wraps(choose)
    def choose_for_both(config: Any, *args: Any, **kwargs: Any) -> Any:
        for held in (config, config.get_text_config(decoder=True)):
            said = getattr(held, _OLD_KEY, None)
            if isinstance(said, dict) and is_ours(said) and getattr(config, "quantization_config", None) is None:
                config.quantization_config = said | {"quant_method": METHOD}
                delattr(held, _OLD_KEY)  # what save_pretrained writes is dense
        return choose(config, *args, **kwargs)

    return choose_for_both


def _classes() -> tuple[Any, Any]:
    """(configuration, quantizer), made here because their bases need transformers."""
    from transformers.core_model_loading import WeightConverter
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    class RarefyConfig(QuantizationConfigMixin):
        dequantize = True  # tells transformers that what comes out is an ordinary model

        def __init__(self, **said: Any) -> None:
            self.quant_method = METHOD  # type: ignore[assignment]  # theirs are an enum, the tables take any text
            self.said = {key: value for key, value in said.items() if key != "quant_method"}

    class RarefyQuantizer(HfQuantizer):
        requires_calibration = True
        is_trainable = True

        def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
            return True

        def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
            self.files = [Path(file) for file in kwargs.get("checkpoint_files") or ()]
            for file in self.files:
                _resize(model, file)
            _require_room(model, self.files)

        def get_weight_conversions(self) -> list[Any]:
            names = [name for file in self.files for name in _names(file)]
            decode = _operation()
            self.ours = [WeightConverter(*patterns, [decode(unpack)]) for patterns, unpack in conversions(names)]
            return self.ours

        def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
            """save_pretrained would undo what was converted at loading; it is to write the model dense."""
            made = {tuple(one.source_patterns) for one in self.ours}
            kept = [one for one in model._weight_conversions or () if tuple(one.source_patterns) not in made]
            model._weight_conversions = kept

    return RarefyConfig, RarefyQuantizer


def _require_room(model: Any, files: Sequence[Path]) -> None:
    """Refuses a config that asks for far more than files hold: masks have eight entries a byte, nothing has more."""
    size, entries = sum(file.stat().st_size for file in files), sum(p.numel() for p in model.parameters())
    if entries > 8 * size + _HEADS:
        raise FileError(
            f"{files[0].parent if files else model.name_or_path}: config.json asks for {entries} parameters, far more "
            f"than files of {size} bytes hold; it is of another model"
        )


def _names(file: Path) -> list[str]:
    if file.suffix != ".safetensors":
        raise FileError(f"{file}: is no safetensors file; rarefy.load reads it")
    check_header(file)
    return [name for name in read_header(file)[1] if name != METADATA]


def _resize(model: Any, file: Path) -> None:
    """Gives the model the widths and split layers that the file says, after the file was checked as `load` does."""
    check_header(file)
    header = read_header(file)[1]
    said = from_metadata(header.get(METADATA), file, len(header))
    if said is None or not (said.resized or said.counts or any(".heavy.up." in name for name in header)):
        return
    contents = read_file(file, mapped=True)
    base = getattr(model, "base_model_prefix", "")
    known = {name for name, _ in model.named_modules()} | model.state_dict().keys()
    same = type(model).__name__ in (getattr(model.config, "architectures", None) or ())

    def find(name: str) -> str | None:
        """A model with a head may be read as its base, and a base into a model with a head."""
        if same or not name:
            return name if same else None
        spelled = (name, f"{name}.".removeprefix(f"{base}.").rstrip("."), f"{base}.{name}")
        return next((n for n in spelled if n in known), None)

    split(model, shapes(contents), file.parent, find)
    resize(model, contents, file.parent, find)


def conversions(names: list[str]) -> list[tuple[tuple[list[str], str], Callable[[Mapping[str, Tensor], str], Held]]]:
    """((patterns of parts, pattern of the parameter), how to unpack) for the layouts and namings among `names`."""
    present, found = set(names), []
    taken: set[str] = set()
    for parts, unpack in _LAYOUTS:
        last = parts[-1] if parts is codes.PARTS else "bitmask"
        prefixes = [name.removesuffix(f".{last}") for name in names if name.endswith(f".{last}") and name not in taken]
        whole = [prefix for prefix in prefixes if all(join(prefix, part) in present for part in parts)]
        taken |= {join(prefix, part) for prefix in whole for part in parts}
        long = sorted({prefix.rpartition(".")[2] for prefix in whole if names_a_parameter(prefix)})
        found += [(([rf"{own}\.{part}" for part in parts], own), unpack) for own in long]
        if any(not names_a_parameter(prefix) for prefix in whole):
            found.append((([rf"\.{part}" for part in parts], ".weight"), unpack))
    return found


def _operation() -> Any:
    from transformers.core_model_loading import ConversionOps

    class Decode(ConversionOps):
        """The parts of one tensor, checked against each other, to the dense tensor."""

        def __init__(self, unpack: Callable[[Mapping[str, Tensor], str], Held]) -> None:
            self.unpack = unpack

        def convert(  # type: ignore[override]  # one tensor under its full name, as their own operations give it
            self, input_dict: dict[str, Any], full_layer_name: str = "", **kwargs: Any
        ) -> dict[str, Tensor]:
            given = {name: held[0] if isinstance(held, list) else held for name, held in input_dict.items()}
            parts = {name.rpartition(".")[2]: held for name, held in given.items()}
            return {full_layer_name: self.unpack(parts, full_layer_name).to_dense()}

    return Decode
