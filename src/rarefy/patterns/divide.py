"""The one check that a matrix divides into a pattern's tiles."""

from rarefy.core.errors import ShapeError


def _divisors(size: int) -> list[int]:
    return [d for d in range(1, min(size, 64) + 1) if size % d == 0]


def require_tiles(pattern: object, tile: tuple[int, int], rows: int, n: int) -> None:
    """Raises ShapeError unless `rows` and `n` are multiples of the tile."""
    for axis, size, step in (("rows (out)", rows, tile[0]), ("columns (in)", n, tile[1])):
        if size % step:
            raise ShapeError(
                f"{pattern}: a ({rows}, {n}) matrix has {size} {axis}, not a multiple of {step}; "
                f"choose from {_divisors(size)} or leave the layer alone with ignore="
            )
