"""What this CPU is called and can do, read from the operating system: for reports, not for choosing kernels."""

import platform
from functools import cache
from pathlib import Path


@cache
def _fields() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty on systems without it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def cpu_name() -> str:
    """The processor's own name, as far as the system tells it."""
    return _fields().get("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Feature flags in the operating system's spelling (`avx2`, `avx512_vnni`, `amx_int8`, ...)."""
    fields = _fields()
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())


def int8_units() -> str:
    """The fastest int8 instructions of this CPU: they decide how far int8 engines get ahead of float32."""
    flags = cpu_flags()
    for flag, name in (("amx_int8", "AMX"), ("avx512_vnni", "AVX-512 VNNI"), ("avx_vnni", "AVX-VNNI")):
        if flag in flags:
            return name
    return "AVX2" if "avx2" in flags else "unknown"
