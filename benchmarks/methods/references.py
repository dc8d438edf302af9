"""The published programs of SparseGPT, Wanda and DSnoT, loaded from a folder of their repositories and called as is.

    git clone https://github.com/IST-DASLab/sparsegpt FOLDER/sparsegpt
    git clone https://github.com/locuslab/wanda FOLDER/wanda
    git clone https://github.com/zyxxmu/DSnoT FOLDER/DSnoT

FOLDER is `--references` or $RAREFY_PEERS. They were written for one GPU and one kind of language model. Here CUDA's
synchronisation does nothing, their data set is what the caller gives, and the model is one linear layer in the clothes
of a Llama; what they compute is not touched.
"""

import contextlib
import importlib
import importlib.util
import io
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class _Layer(nn.Module):
    """A block that runs one linear layer and hands its input on, so that any shape fits."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.attn = nn.Module()
        self.attn.fc = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.attn.fc.weight.data = weight.clone()

    def forward(self, x: Tensor, **kwargs: object) -> tuple[Tensor]:
        self.attn.fc(x)
        return (x,)


class _Model(nn.Module):
    def __init__(self, weight: Tensor, tokens: int) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([_Layer(weight)])
        self.config = SimpleNamespace(use_cache=False, hidden_size=weight.shape[1])
        self.hf_device_map: dict[str, str] = {}
        self.seqlen = tokens

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return self.model.layers[0](x, attention_mask=None, position_ids=None)


class References:
    """Each call prunes a copy of `weight` (out, in), calibrated on samples of (1, tokens, in), and returns it."""

    def __init__(self, folder: Path) -> None:
        torch.cuda.synchronize = lambda *a, **k: None  # type: ignore[assignment]
        torch.cuda.empty_cache = lambda: None
        transformers.Conv1D = Conv1D  # where it used to be
        self._sparsegpt = _file("reference_sparsegpt", folder / "sparsegpt" / "sparsegpt.py")
        self._wanda = _package("reference_wanda", folder / "wanda" / "lib")
        self._dsnot = _package("reference_dsnot", folder / "DSnoT" / "lib")

    def gram(self, weight: Tensor, samples: Sequence[Tensor]) -> object:
        """SparseGPT's state with its Gram accumulated."""
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight.data = weight.clone()
        state = self._sparsegpt.SparseGPT(layer)
        for x in samples:
            state.add_batch(x, x)
        return state

    def sparsegpt(self, state: object, gram: Tensor, sparsity: float, nm: tuple[int, int] = (0, 0)) -> Tensor:
        """The sweep from an accumulated state; `gram` is copied into it, for the sweep uses it up."""
        state.H = gram.clone()  # type: ignore[attr-defined]
        with _silent():
            state.fasterprune(sparsity, prunen=nm[0], prunem=nm[1])  # type: ignore[attr-defined]
        return state.layer.weight.data  # type: ignore[attr-defined, no-any-return]

    def wanda(self, weight: Tensor, samples: Sequence[Tensor], sparsity: float) -> Tensor:
        """Calibration, mask and a second pass."""
        model = _Model(weight, samples[0].shape[1])
        self._give(self._wanda, samples)
        args = SimpleNamespace(nsamples=len(samples), seed=0, sparsity_ratio=sparsity, use_variant=False)
        with torch.no_grad(), _silent():
            self._wanda.prune_wanda(args, model, None, torch.device("cpu"))
        return _weight(model)

    def dsnot(self, weight: Tensor, samples: Sequence[Tensor], sparsity: float) -> tuple[Tensor, float]:
        """Calibration, Wanda's mask, exchanges and a second pass; also the seconds of mask and exchanges alone."""
        model, seconds = _Model(weight, samples[0].shape[1]), []
        self._give(self._dsnot, samples)
        self._dsnot.save_time_result = lambda args, file, total: seconds.append(total)
        args = SimpleNamespace(
            nsamples=len(samples), seed=0, sparsity_ratio=sparsity, initial_method="wanda", max_cycle_time=50,
            update_threshold=0.1, pow_of_var_regrowing=1, pow_of_var_pruning=1, without_same_sign=True,
            without_DSnoT=False, skip_layer="none", skip_sub_layer="none", get_time_overhead=True,
            output_results_file="",
        )  # fmt: skip
        with torch.no_grad(), _silent():
            self._dsnot.prune_DSnoT(args, model, None, torch.device("cpu"))
        return _weight(model), seconds[0]

    def _give(self, module: ModuleType, samples: Sequence[Tensor]) -> None:
        module.get_loaders = lambda *a, **k: ([(x,) for x in samples], None)  # type: ignore[attr-defined]


def _weight(model: _Model) -> Tensor:
    return model.model.layers[0].attn.fc.weight.data  # type: ignore[union-attr, return-value]


def _silent() -> contextlib.redirect_stdout[io.StringIO]:
    return contextlib.redirect_stdout(io.StringIO())


def _file(name: str, path: Path) -> ModuleType:
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there; see the head of {__file__} for what to clone")
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def _package(name: str, folder: Path) -> ModuleType:
    """The module `prune` of a folder of modules, its loader of data sets left out."""
    if not (folder / "prune.py").exists():
        raise FileNotFoundError(f"{folder}: not there; see the head of {__file__} for what to clone")
    package, data = types.ModuleType(name), types.ModuleType(f"{name}.data")
    package.__path__ = [str(folder)]
    data.get_loaders = None  # type: ignore[attr-defined]
    sys.modules[name], sys.modules[f"{name}.data"] = package, data
    return importlib.import_module(f"{name}.prune")
