"""Changes to weights written as a SHiRA adapter, which PEFT loads."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.core.shapes import Float
from rarefy.core.topk import keep_top
from rarefy.formats.atomic import replace_file, write_text
from rarefy.formats.held import Held, dense
from rarefy.formats.safe_write import write_stored

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write_shira(folder: Path, changes: Mapping[str, Tensor | Held], *, base_model: str) -> int:
    """Writes adapter_config.json and adapter_model.safetensors; gives the rank r.

    changes: {name of a weight: what is added to it, `(out, in)`, mostly zeros}; base_model: what the config calls the
    model that it belongs to. PEFT wants exactly r (out + in) entries of every weight with one r for all, so r is the
    least that holds the fullest, and each is filled up with explicit zeros at the first entries that do not change.
    Raises FileError if a weight changes in more entries than that allows, or a name does not end in `.weight`.
    """
    if not changes:
        raise FileError("write_shira: there are no changes; give {name of a weight: change}")
    given = {name: _checked(name, dense(change)) for name, change in changes.items()}
    rank = max(1, *(-(-int(change.ne(0).sum()) // sum(change.shape)) for change in given.values()))
    stored: dict[str, Tensor] = {}
    for name, change in given.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        stored[f"{module}.shira_indices"], stored[f"{module}.shira_weight"] = _entries(name, change, rank)
    said = {
        "peft_type": "SHIRA",
        "base_model_name_or_path": base_model,
        "target_modules": sorted(name.removesuffix(".weight") for name in given),
        "r": rank,
        "mask_type": "random",
        "random_seed": 0,
        "fan_in_fan_out": False,
        "init_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "task_type": None,
    }
    replace_file(folder / WEIGHTS, partial(write_stored, tensors=stored, metadata={"format": "pt"}))
    write_text(folder / CONFIG, json.dumps(said, indent=2, sort_keys=True) + "\n")
    return rank


def _entries(name: str, change: Float[Tensor, "out in"], rank: int) -> tuple[Tensor, Tensor]:
    """(indices `(2, k)` int32 in row-major order, values `(k,)`) with k = rank (out + in)."""
    count = rank * sum(change.shape)
    if count > change.numel():
        raise FileError(
            f"write_shira: {name} {tuple(change.shape)} changes too often, or is too small, for a SHiRA adapter of "
            f"rank {rank} ({count} entries); save the changed model whole instead"
        )
    kept = keep_top(change.ne(0).reshape(1, -1).float(), count).reshape(change.shape)
    return kept.nonzero().t().to(torch.int32).contiguous(), change[kept].float()


def _checked(name: str, change: Tensor) -> Tensor:
    if change.dim() != 2 or not name.endswith(".weight") or not change.is_floating_point():
        raise FileError(f"write_shira: {name} {tuple(change.shape)} {change.dtype} is no matrix of a layer's `.weight`")
    return change
