"""What a library may not change behind the back of the program that uses it, as one comparable record."""

import logging
import os
import random
import signal
import sys
import threading
import warnings
from typing import Any

import numpy
import torch

_OURS = ("RAREFY_CACHE_DIR", "PYTEST_CURRENT_TEST")  # set by the tests


def _denormals_are_kept() -> bool:
    return bool((torch.tensor([1e-40]) * 1.0).item() != 0.0)


def _signals() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _logging() -> tuple[Any, ...]:
    root = logging.getLogger()
    known = ("torch", "transformers", "numpy", "asyncio")  # what is imported later may bring loggers of its own
    loggers = {name: logging.getLogger(name) for name in known}
    return (
        root.level,
        tuple(map(id, root.handlers)),
        logging.root.manager.disable,
        {name: (logger.level, logger.propagate, len(logger.handlers)) for name, logger in loggers.items()},
    )


def state() -> dict[str, Any]:
    """Everything by name; equal records mean that nothing was changed."""
    python = random.getstate()
    drawn = numpy.random.get_state()  # noqa: NPY002 - the generator that others use is watched
    return {
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "denormals kept": _denormals_are_kept(),
        "torch generator": torch.random.get_rng_state().tolist(),
        "numpy generator": (drawn[0], tuple(drawn[1].tolist()), *drawn[2:]),
        "python generator": python,
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "sparse invariants": torch.sparse.check_sparse_tensor_invariants.is_enabled(),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "environment": {key: value for key, value in os.environ.items() if key not in _OURS},
        "folder": os.getcwd(),
        "signals": _signals(),
        "logging": _logging(),
        "warnings": list(warnings.filters),
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook),
        "printing": repr(torch._tensor_str.PRINT_OPTS),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """{what: (before, after), shortened} of what differs."""
    return {name: (str(before[name])[:200], str(after[name])[:200]) for name in before if before[name] != after[name]}
