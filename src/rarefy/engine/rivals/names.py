"""The rivals by name."""

from collections.abc import Sequence

from rarefy.core.errors import unknown_name
from rarefy.engine.rivals.openvino import OpenVino, OpenVinoInt8
from rarefy.engine.rivals.ort import OnnxRuntime, OnnxRuntimeInt8
from rarefy.engine.rivals.protocol import Rival
from rarefy.engine.rivals.torch_compile import TorchCompile
from rarefy.engine.rivals.torch_eager import TorchEager

_ALL: tuple[Rival, ...] = (
    TorchEager(),
    TorchCompile(),
    OnnxRuntime(),
    OnnxRuntimeInt8(),
    OpenVino(),
    OpenVinoInt8(),
)
RIVALS: dict[str, Rival] = {rival.name: rival for rival in _ALL}


def find(against: str | Sequence[str | Rival]) -> list[Rival]:
    """The rivals of names (or objects); "all" means every one. An unknown name is an error that suggests others."""
    asked = [against] if isinstance(against, str) else list(against)
    if "all" in asked:
        return list(_ALL)
    found: dict[str, Rival] = {}
    for one in asked:
        if isinstance(one, str) and one not in RIVALS:
            raise unknown_name("benchmark: rival", one, [*RIVALS, "all"])
        rival = RIVALS[one] if isinstance(one, str) else one
        found[rival.name] = rival
    return list(found.values())
