"""A call in a process of its own: nothing of the caller's runs beside what is timed.

    python benchmarks/latency/apart.py CALL RESULT

CALL and RESULT are files that hold a pickled call without arguments, and what it gave.
"""

import os
import pickle
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def apart(call: Callable[[], T], under: str = "", threads: int | None = None) -> T:
    """What the call gives. under: a command line that the process is run by, "taskset -c 0,1" say."""
    with tempfile.TemporaryDirectory() as folder:
        given, got = Path(folder) / "call", Path(folder) / "result"
        given.write_bytes(pickle.dumps(call))
        environment = dict(os.environ) if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [*shlex.split(under), sys.executable, __file__, str(given), str(got)]
        subprocess.run(command, check=True, env=environment)
        result: T = pickle.loads(got.read_bytes())
    return result


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    Path(sys.argv[2]).write_bytes(pickle.dumps(pickle.loads(Path(sys.argv[1]).read_bytes())()))
