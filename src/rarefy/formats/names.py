"""How the parts of a sparse tensor are named in a file, in both schemes that exist."""

from collections.abc import Collection

from rarefy.core.errors import FileError
from rarefy.formats.bitmask import PARTS

_PARAMETERS = ("weight", "bias", "gamma", "beta", "ids", "mean", "var", "scale", "zero_point", "inv_freq", "embedding")


def join(prefix: str, part: str) -> str:
    return f"{prefix}.{part}" if prefix else part


def choose_prefix(name: str, taken: Collection[str], parts: Collection[str] = PARTS) -> str | None:
    """The prefix under which a tensor's parts are stored, None if every choice collides with a name that is taken.

    `layer.weight` becomes `layer.compressed` (compressed-tensors from 0.9 on); a name that does not end in `.weight`
    is its own prefix, `layer.in_proj_weight.compressed` (up to 0.8.1).
    """
    short = [name.removesuffix(".weight")] if name.endswith(".weight") else []
    for prefix in (*short, name):
        if not any(join(prefix, part) in taken for part in parts):
            return prefix
    return None


def recognise(names: Collection[str]) -> dict[str, tuple[str, str]]:
    """{parameter: (prefix of its parts, layout)} of the sparse tensors among the names of a file that says nothing."""
    present = set(names)
    found: dict[str, tuple[str, str]] = {}
    for name in sorted(present):
        if name != "bitmask" and not name.endswith(".bitmask"):
            continue
        prefix = name.removesuffix("bitmask").removesuffix(".")
        absent = [part for part in PARTS if join(prefix, part) not in present]
        if len(absent) == len(PARTS) - 1:
            continue  # an ordinary tensor that happens to be called bitmask
        parameter = prefix if names_a_parameter(prefix) else join(prefix, "weight")
        if parameter in present or parameter in found:
            raise FileError(f"tensor {parameter!r}: it is stored twice, dense and sparse; get the file again")
        found[parameter] = prefix, _layout(prefix, absent)
    return found


def _layout(prefix: str, absent: list[str]) -> str:
    if absent == ["row_offsets"]:
        return "sparse-24-bitmask"
    if absent:
        raise FileError(f"tensor {prefix!r}: its parts {absent} are missing; the file is incomplete, get it again")
    return "sparse-bitmask"


def names_a_parameter(prefix: str) -> bool:
    return prefix.rsplit(".", 1)[-1].endswith(_PARAMETERS)
