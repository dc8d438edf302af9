"""Ways in which a file of packed weights can be wrong."""

from pathlib import Path


def damaged(path: Path, how: str) -> None:
    """Replaces the file by one with the fault."""
    raw = bytearray(path.read_bytes())
    match how:
        case "cut":
            raw = raw[: len(raw) // 2]
        case "empty":
            raw.clear()
        case "weights":
            raw[len(raw) // 3] ^= 4
        case "index":
            raw[-10] ^= 1
        case "head":
            raw[9] ^= 255
    path.unlink()
    path.write_bytes(raw)  # a new file: the old one may be mapped
