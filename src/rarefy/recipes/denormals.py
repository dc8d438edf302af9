"""Whether numbers too small for the normal format are flushed to zero, in this thread and in torch's workers.

Arithmetic on such numbers is done in microcode on many CPUs; `torch.set_flush_denormal` sets it for one thread only.
"""

import torch

_BITS = 1 << 20  # as the bits of a float32: a denormal, about 1.5e-39
_ENOUGH = 1 << 20  # elements: torch splits an operation of this size over its threads


def flushes() -> tuple[bool, bool | None]:
    """(in this thread, in torch's worker threads); the second is None with a single thread.

    Half a denormal is computed for many elements; where it is zero, the thread that computed it flushes. The last
    elements are the last worker's.
    """
    here = bool(((_denormals(1) * 0.5).view(torch.int32) == 0).all())
    if torch.get_num_threads() < 2:
        return here, None
    halves = (_denormals(_ENOUGH) * 0.5).view(torch.int32)  # compared as bits: a flushing thread sees any as zero
    return here, bool((halves[-1024:] == 0).all())


def _denormals(count: int) -> torch.Tensor:
    return torch.full((count,), _BITS, dtype=torch.int32).view(torch.float32)
