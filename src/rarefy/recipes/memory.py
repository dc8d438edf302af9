"""Peak memory of a saved model, dense or compiled: measured in a process of its own, never guessed.

`ru_maxrss` would not do: it survives exec, so a child begins with its parent's peak. Linux keeps the peak of the
program itself in VmHWM, and lets it be reset.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_CHILD = "rarefy.recipes.memory_child"
_SECONDS = 240


def peak_memory(folder: Path, shape: tuple[int, int], compiled: bool) -> dict[str, Any] | None:
    """MiB of a fresh process that loads the Hugging Face folder and runs a batch of `shape` (rows, tokens).

    imports: after the imports; loaded: once the model is ready to run; ready_peak: the most until then (what
    loading and compiling takes); run_peak: the most while running. None where the system does not tell.
    """
    if not Path("/proc/self/status").exists():
        return None
    command = [sys.executable, "-m", _CHILD, str(folder), str(shape[0]), str(shape[1]), str(int(compiled))]
    return run_child([*command, str(torch.get_num_threads())])


def run_child(command: Sequence[str]) -> dict[str, Any]:
    """The last line that the child prints, as JSON; an error carries what it said."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"memory: the measuring process failed: {done.stderr.strip()[-500:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))
