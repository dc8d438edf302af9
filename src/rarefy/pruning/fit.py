"""Which pattern each layer gets: the one asked for, padded, or none where the layer does not divide."""

from collections.abc import Sequence

from rarefy.core.errors import ModelError, ShapeError, unknown_name
from rarefy.core.grid import QuantizeSpec
from rarefy.core.protocols import Pattern
from rarefy.core.site import Site
from rarefy.patterns.nm import NM
from rarefy.patterns.padded import PaddedNM

_CHOICES = ("error", "skip", "pad")


def fit_patterns(
    sites: Sequence[Site],
    pattern: Pattern,
    undivided: str,
    quantize: QuantizeSpec | None = None,
    *,
    look: bool = True,
) -> tuple[dict[str, Pattern], dict[str, str]]:
    """{site: its pattern} and {site left alone: why}; every weight is checked to be finite.

    look: False goes by the shapes alone, for weights that are not loaded yet.
    undivided: what becomes of a layer that the pattern's tile does not divide: "error" names it, "skip" leaves it as
    it is, "pad" (N:M only) lets its last group be short.
    quantize: its groups have to divide the layers too.
    """
    if undivided not in _CHOICES:
        raise unknown_name("undivided", undivided, _CHOICES)
    if undivided == "pad" and not isinstance(pattern, NM | PaddedNM):
        raise ShapeError(f'undivided: "pad" is for N:M patterns, not for {pattern}; use undivided="skip" or ignore=')
    chosen: dict[str, Pattern] = {}
    skipped: dict[str, str] = {}
    for site in sites:
        if look:
            site.read()
        why = _misfit(site, pattern)
        rough = None if quantize is None else quantize.why_not(site.shape[1])
        if rough is not None and undivided != "skip":
            raise ShapeError(
                f"{site.name}: {rough}; choose another group=, group=None, leave the layer alone with "
                f'ignore=[{site.name!r}], or undivided="skip"'
            )
        why = why or rough
        if why is None:
            chosen[site.name] = pattern
        elif undivided == "pad" and isinstance(pattern, NM):
            chosen[site.name] = PaddedNM(pattern.n, pattern.m)
        elif undivided == "skip":
            skipped[site.name] = why
        else:
            hint = ' or undivided="pad" (a short last group)' if isinstance(pattern, NM) else ""
            raise ShapeError(
                f'{site.name}: {why}; leave it alone with ignore=[{site.name!r}] or undivided="skip"{hint}, '
                "or choose another pattern"
            )
    if not chosen:
        raise ModelError(f"undivided: {pattern} divides none of the {len(skipped)} layers; nothing was changed")
    return chosen, skipped


def _misfit(site: Site, pattern: Pattern) -> str | None:
    rows, n = site.shape
    rows //= site.groups
    tile = pattern.granularity
    if rows % tile[0] == 0 and n % tile[1] == 0:
        return None
    return (
        f"{pattern} needs multiples of {tile[0]} x {tile[1]}, but the weight is "
        f"{rows} x {n}{' a group' if site.groups > 1 else ''}"
    )
