"""Sparse changes to a model's weights, as PEFT stores them: SHiRA and Super-Tuning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.held import Held, dense, plain

_FLOATS = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
_ROOT = "base_model.model."
KINDS = ("SHIRA", "SUPERTUNING")
"""What `peft_type` may say: a fixed table, never an import."""


@dataclass(frozen=True, eq=False)
class Delta:
    """What an adapter adds to one weight `(out, in)`. The file does not hold the weight's shape.

    values: `(k,)`; rows, columns: `(k,)` int64, or columns alone as places in the flat weight, or neither: then they
    are the k largest (smallest) entries of the weight that it was trained on; low_rank: (A `(r, in)`, B `(out, r)`,
    alpha) of the part that is not sparse.
    """

    values: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None
    largest: bool = True
    low_rank: tuple[Tensor, Tensor, float] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Not known: no axes."""
        return ()

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def to_dense(self) -> Tensor:
        raise _not_alone()

    def merged(self, weight: Tensor, name: str = "weight") -> Tensor:
        """The weight with the change added, bit for bit what PEFT's own merge gives. Raises FileError."""
        if weight.dim() != 2:
            raise FileError(f"tensor {name!r}: the adapter changes a matrix, the model has rank {weight.dim()} there")
        places = self._places(weight, name)
        if self.rows is not None:  # PEFT adds a sparse tensor of the adapter's own type
            return weight.clone().add_(
                torch.sparse_coo_tensor(places, self.values, weight.shape, check_invariants=True)
            )
        flat = weight.reshape(-1).scatter_add(0, places, self.values.to(weight.dtype)).reshape_as(weight)
        if self.low_rank is None:
            return flat
        a, b, alpha = self.low_rank
        if (b.shape[0], a.shape[1]) != tuple(weight.shape):
            raise FileError(
                f"tensor {name!r}: its low-rank part is ({b.shape[0]}, {a.shape[1]}), not {tuple(weight.shape)}"
            )
        if a.dtype != b.dtype:
            raise FileError(f"tensor {name!r}: its low-rank parts are {b.dtype} and {a.dtype}; get the files again")
        return flat.add_(((alpha / a.shape[0]) * (b @ a)).to(weight.dtype))

    def _places(self, weight: Tensor, name: str) -> Tensor:
        """`(2, k)`, or `(k,)` in the flat weight; every one is inside the weight."""
        if self.columns is None:
            return self._rebuilt(weight, name)
        limits = (weight.numel(),) if self.rows is None else (weight.shape[0], weight.shape[1])
        parts = (self.columns,) if self.rows is None else (self.rows, self.columns)
        for part, limit in zip(parts, limits, strict=True):
            if part.numel() and not 0 <= int(part.min()) <= int(part.max()) < limit:
                raise FileError(
                    f"tensor {name!r}: the adapter changes entries outside {tuple(weight.shape)}; wrong base model?"
                )
        return parts[0] if self.rows is None else torch.stack(parts)

    def _rebuilt(self, weight: Tensor, name: str) -> Tensor:
        """The places that were not saved. Equal magnitudes among them have no certain order, so they are refused."""
        k, score = self.values.numel(), weight.abs().reshape(-1)
        if k > score.numel():
            raise FileError(f"tensor {name!r}: the adapter changes {k} entries of {score.numel()}; wrong base model?")
        top = torch.topk(score, min(k + 1, score.numel()), largest=self.largest)
        if bool((top.values[1:] == top.values[:-1]).any()):
            raise FileError(
                f"tensor {name!r}: the adapter was saved without its indices and the weight has entries of equal "
                "magnitude, so they cannot be told; save the adapter again with save_precomputed_indices=True"
            )
        return top.indices[:k]


def fold(entries: Mapping[str, Tensor | Held], config: Mapping[str, Any] | None = None) -> dict[str, Tensor | Held]:
    """The entries of an adapter's file by the names of the base model's weights; of any other file as they are."""
    ends = (".shira_weight", ".supertuning_values")
    if not any(name.endswith(ends) for name in entries):
        return dict(entries)
    kind = str((config or {}).get("peft_type", ends))
    if config is not None and kind not in KINDS:
        raise FileError(
            f"adapter_config.json: peft_type {kind!r} does not belong to these tensors; get the files again"
        )
    found, used = {}, set[str]()
    seen: set[int] = set()
    for name in entries:
        if name.endswith(ends):
            module = name.rpartition(".")[0]
            names = {part: f"{module}.{part}" for part in _PARTS if f"{module}.{part}" in entries}
            parts = {part: plain(entries[stored], stored) for part, stored in names.items()}
            if seen & {id(part) for part in parts.values()}:  # indices are copied: one for thousands would cost as many
                raise FileError(f"adapter of {module!r}: it shares tensors with another; save copies of them")
            seen |= {id(part) for part in parts.values()}
            read = _shira if "shira_weight" in parts else _super
            found[module.removeprefix(_ROOT) + ".weight"] = read(parts, config or {}, module)
            used |= set(names.values())
    rest = {name.removeprefix(_ROOT): entry for name, entry in entries.items() if name not in used}
    if twice := sorted(rest.keys() & found.keys()):
        raise FileError(f"tensor {twice[0]!r}: it is stored twice, whole and as a change; get the file again")
    return rest | found


def _not_alone() -> FileError:
    return FileError(
        "this is an adapter: it holds changes to weights, not weights; give its base model as well "
        "(rarefy.formats.adapters.merge, or rarefy convert BASE OUT --adapter FOLDER)"
    )


_PARTS = (
    *("shira_weight", "shira_indices", "supertuning_values", "supertuning_indices"),
    *("supertuning_lora_A.weight", "supertuning_lora_B.weight"),
)


def _shira(parts: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> Delta:
    values, index = parts["shira_weight"], parts.get("shira_indices")
    _require(values.dim() == 1 and values.dtype in _FLOATS, name, f"values of shape {tuple(values.shape)}")
    _require(index is not None, name, "its shira_indices are missing")
    assert index is not None
    _require(tuple(index.shape) == (2, values.numel()), name, f"indices of shape {tuple(index.shape)}")
    whole = _integers(index, name)  # float32 in files made on Windows
    return Delta(values, whole[0], whole[1])


def _super(parts: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> Delta:
    values, index = parts["supertuning_values"], parts.get("supertuning_indices")
    _require(values.dim() == 1 and values.dtype in _FLOATS, name, f"values of shape {tuple(values.shape)}")
    _require(index is None or index.shape == values.shape, name, "its indices and values differ in shape")
    places = None if index is None else _integers(index, name)
    largest = config.get("select_top", True)
    _require(isinstance(largest, bool), name, f"select_top is {largest!r}")
    return Delta(values, None, places, largest, _low_rank(parts, config, name))


def _low_rank(parts: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> tuple[Tensor, Tensor, float] | None:
    a, b = (parts.get(f"supertuning_lora_{letter}.weight") for letter in "AB")
    if a is None and b is None:
        return None
    _require(a is not None and b is not None, name, "one half of its low-rank part is missing")
    assert a is not None and b is not None
    fits = a.dim() == b.dim() == 2 and a.shape[0] == b.shape[1] > 0 and {a.dtype, b.dtype} <= _FLOATS
    _require(fits, name, "the halves of its low-rank part do not fit each other")
    alpha = config.get("lora_alpha")
    said = type(alpha) in (int, float) and abs(alpha) < 1e9  # type: ignore[arg-type]
    _require(said, name, "adapter_config.json with lora_alpha is missing; give the folder")
    return a, b, float(alpha)  # type: ignore[arg-type]


def _integers(index: Tensor, name: str) -> Tensor:
    whole = index.to(torch.int64)
    right = index.dtype in (torch.int32, torch.int64) or (
        index.dtype == torch.float32 and torch.equal(whole.to(torch.float32), index)
    )
    _require(right, name, f"its indices are {index.dtype} and no whole numbers")
    _require(not whole.numel() or int(whole.min()) >= 0, name, "an index is negative")
    return whole


def merge(weights: Mapping[str, Tensor | Held], adapter: Mapping[str, Tensor | Held]) -> dict[str, Tensor | Held]:
    """The weights of a model with an adapter's changes added; tensors that the adapter holds whole replace theirs."""
    found = dict(weights)
    for name, entry in adapter.items():
        if isinstance(entry, Delta):
            if name not in weights:
                raise FileError(f"adapter: it changes {name!r}, which the model does not have; give its base model")
            found[name] = entry.merged(dense(weights[name]), name)
        else:
            found[name] = entry
    return found


def _require(holds: bool, name: str, why: str) -> None:
    if not holds:
        raise FileError(f"adapter of {name!r}: {why}; the file is damaged or of another kind, get it again")
