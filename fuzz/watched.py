"""What a reader does besides reading: imports, unpickling, code, commands, files elsewhere. All of it is a failure.

Python reports each of these to an audit hook, whoever does it and however it was reached.
"""

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).resolve().parents[1])
_CODE = tuple(
    {
        os.path.realpath(place)
        for place in (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *sys.path, _ROOT)
        if place
    }
)
_SYSTEM = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/etc/localtime", "/usr/share/zoneinfo")
_PACKAGES = frozenset(
    {
        *sys.stdlib_module_names,
        *(
            "torch",
            "numpy",
            "transformers",
            "mistral_common",
            "huggingface_hub",
            "tokenizers",
            "safetensors",
            "rarefy",
            "gguf",
            "yaml",
        ),
        *("accelerate", "regex", "jinja2", "markupsafe", "packaging", "tqdm", "sympy", "mpmath", "sentencepiece"),
        *("scipy", "sklearn", "google", "tiktoken", "torchvision", "PIL", "httpx", "filelock", "ml_dtypes", "psutil"),
        *("jaxtyping", "typer", "rich", "matplotlib", "onnxscript", "onnxruntime", "openvino", "lightning"),
        *("pandas", "pyarrow", "peft", "kernels", "networkx", "onnx", "dill", "optree", "tensorflow", "jax", "flax"),
    }
)
"""What may be imported while a file is read, because a library does so by itself."""
_NAMED = frozenset({"antigravity", "this"})
"""Modules of Python that nothing imports, unless a hostile file has named them and is obeyed."""
_NEVER = (
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Watch:
    """places: folders that may be read and written while it is on; seen: what was done that may not be."""

    def __init__(self) -> None:
        self.places: tuple[str, ...] | None = None
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.places is None:
            return
        why = None
        if event in _NEVER:
            why = f"{event} {args!r}"
        elif event == "import" and str(args[0]).partition(".")[0] not in _PACKAGES - _NAMED:
            why = f"import of {args[0]!r}"
        elif event in ("exec", "compile") and self._is_ours(_file_of(event, args)):
            why = f"{event} of {_file_of(event, args)}"
        elif event == "open" and not self._may_open(*args):
            why = f"open {args!r}"
        if why is not None:
            self.seen.append(why)

    def _is_ours(self, file: str) -> bool:
        return any(file.startswith(place) for place in self.places or ())

    def _may_open(self, path: Any, mode: Any, flags: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return True  # a descriptor, which was opened before
        real = os.path.realpath(os.fsdecode(path))
        if self._is_ours(real) or real.startswith(_SYSTEM):
            return True
        return not (isinstance(flags, int) and flags & _WRITES) and real.startswith(_CODE)


def _file_of(event: str, args: tuple[Any, ...]) -> str:
    """The file of the code that is run or made."""
    return str(getattr(args[0], "co_filename", "") if event == "exec" else args[1])


_WATCH = Watch()
_INSTALLED: list[bool] = []  # a hook stays as long as the process


@contextmanager
def watched(*places: Path) -> Iterator[list[str]]:
    """Inside, whatever is done besides reading below `places` is appended to the list."""
    if not _INSTALLED:
        sys.addaudithook(_WATCH)
        _INSTALLED.append(True)
    _WATCH.seen = []
    _WATCH.places = tuple(os.path.realpath(place) for place in places)
    try:
        yield _WATCH.seen
    finally:
        _WATCH.places = None
