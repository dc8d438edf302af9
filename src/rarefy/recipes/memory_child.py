"""The program that `recipes.memory` starts: loads, optionally compiles, runs, and tells its memory."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

_RUNS = 5


def status(field: str) -> float:
    """MiB of a line of /proc/self/status."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def reset_peak() -> None:
    """Makes VmHWM begin again at the memory in use; where that is not allowed the peak includes what was before."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def main(folder: str, rows: int, tokens: int, compiled: bool, threads: int) -> None:
    import transformers  # noqa: F401  # counted among the imports, not as part of the model

    import rarefy.engine
    from rarefy.recipes.store import load

    torch.set_num_threads(threads)
    imports = status("VmRSS")
    model = load(Path(folder))
    config: Any = model.config
    ids = torch.randint(int(config.vocab_size), (rows, tokens), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    ready = rarefy.engine.compile(model, batch) if compiled else model.eval()
    loaded, ready_peak = status("VmRSS"), status("VmHWM")
    reset_peak()
    with torch.inference_mode():
        for _ in range(_RUNS):
            ready(**batch)
    found = {"imports": imports, "loaded": loaded, "ready_peak": ready_peak, "run_peak": status("VmHWM")}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1", int(sys.argv[5]))
