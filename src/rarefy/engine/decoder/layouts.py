"""Which two layouts of a weight serve all token counts: the fastest for a step, and one that is nowhere far behind."""

import math
from collections.abc import Mapping

_AS_FAST = 1.03  # a step decides first: others are as good where they are within the noise of its timing
_SECOND_LAYOUT = 1.25  # a second copy of a weight costs memory: somewhere it has to be so much faster than the first
_UNABLE = 100.0  # for the comparison: a count for which a layout has no kernel, or was not worth timing

Times = Mapping[int, Mapping[str, float]]


def two_layouts(at: Times) -> tuple[str, str]:
    """(the layout of a step, the layout of more tokens), the same one unless another is worth its memory.

    at: milliseconds by name for each token count, of what may run there; "dense", the layer as it is, costs no memory
    and may run beside both. At the least count, a step's, there is a name besides. A pair is as good as at the count
    where it is furthest behind the fastest.
    """
    counts = sorted(at)
    step = {name: ms for name, ms in at[counts[0]].items() if name != "dense"}
    leaders = [name for name, ms in step.items() if ms <= _AS_FAST * min(step.values())]
    others = sorted({name for times in at.values() for name in times} - {"dense"})

    def behind(pair: tuple[str, str]) -> tuple[float, float, float]:
        """(the worst ratio to the fastest at a count, the logarithm of all ratios' product, a step's milliseconds)"""
        ratios = [_ratio(at[count], (*pair, "dense")) for count in counts]
        return max(ratios), math.fsum(map(math.log, ratios)), step[pair[0]]

    alone = min(((name, name) for name in leaders), key=behind)
    both = min(((first, second) for first in leaders for second in others), key=behind)
    return alone if behind(alone)[0] <= _SECOND_LAYOUT * behind(both)[0] else both


def _ratio(times: Mapping[str, float], names: tuple[str, ...]) -> float:
    """How many times the fastest's milliseconds the best of some names takes."""
    least = min(times.values(), default=math.inf)
    own = min((times[name] for name in names if name in times), default=math.inf)
    if math.isinf(least) or own == least:
        return 1.0
    return min(_UNABLE, own / least) if least > 0 else _UNABLE
