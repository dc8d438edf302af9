"""Hidden states between the blocks of a chain, on the disk: one file a boundary and batch."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

from safetensors.torch import save_file
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.atomic import replace_file
from rarefy.formats.safe import read_stored

_NAME = "hidden"


class Boundaries:
    """What enters block k, batch by batch; k = 0 is what the model itself gives the first block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, boundary: int, batch: int, hidden: Tensor) -> None:
        """Whole or not at all. Raises FileError."""
        replace_file(self._path(boundary, batch), partial(save_file, {_NAME: hidden.detach().contiguous()}))

    def read(self, boundary: int, batch: int) -> Tensor:
        path = self._path(boundary, batch)
        if not path.exists():
            raise FileError(f"{path}: the hidden states that the next block needs are gone; begin in an empty folder")
        return read_stored(path)[1][_NAME]

    def drop(self, boundary: int) -> None:
        shutil.rmtree(self.folder / str(boundary), ignore_errors=True)

    def _path(self, boundary: int, batch: int) -> Path:
        return self.folder / str(boundary) / f"{batch}.safetensors"


class Lazy(Sequence[Any]):
    """A sequence whose entries are made anew each time that they are asked for."""

    def __init__(self, make: Callable[[int], Any], length: int) -> None:
        self.make, self.length = make, length

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self.make(i) for i in range(self.length)[index]]
        if not -self.length <= index < self.length:
            raise IndexError(index)
        return self.make(index % self.length)
