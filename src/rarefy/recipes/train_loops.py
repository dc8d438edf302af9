"""Sparse training inside loops that are not yours: callbacks for the Trainer of `transformers` and for Lightning."""

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from rarefy.core.errors import ModelError
from rarefy.formats.atomic import replace_file
from rarefy.formats.torch_file import read_state
from rarefy.recipes.train import sparse_training

_FILE = "rarefy_trainer.pt"


def transformers_callback(method: Any, **arguments: Any) -> Any:
    """A `transformers.TrainerCallback` that trains sparse: `Trainer(..., callbacks=[transformers_callback("rigl")])`.

    arguments: those of `rarefy.sparse_training` but model and optimizer; `total_steps` is the Trainer's own unless
    given. The callback's `.trainer` is the sparse trainer once training has begun. Its state is saved into every
    checkpoint folder and restored when training is resumed from one.
    """
    from transformers import TrainerCallback

    class SparseTraining(TrainerCallback):
        trainer: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            options = {"total_steps": state.max_steps, **arguments}
            if state.global_step:
                path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / _FILE
                if not path.exists():
                    raise ModelError(
                        f"{path}: is missing, so sparse training cannot go on from this checkpoint; its state is read "
                        "from the checkpoint's folder in output_dir: copy the folder that you resume from there, or "
                        "give the output_dir of the run that wrote it"
                    )
                options["state"] = read_state(path)
            if self.trainer is not None:
                self.trainer.detach()  # of a training that was broken off
            self.trainer = sparse_training(given["model"], given["optimizer"], method, **options)

        def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.is_world_process_zero:
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                replace_file(folder / _FILE, partial(torch.save, self.trainer.state_dict()))

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.trainer.detach()

    return SparseTraining()


def lightning_callback(method: Any, **arguments: Any) -> Any:
    """A Lightning callback that trains sparse: `Trainer(callbacks=[lightning_callback("rigl", ...)])`.

    arguments: those of `rarefy.sparse_training` but model and optimizer; `total_steps` is Lightning's estimate unless
    given. For modules with one optimizer. The state goes into Lightning's checkpoints.
    """
    Callback = _lightning().Callback

    class SparseTraining(Callback):  # type: ignore[misc, valid-type]
        trainer: Any = None
        _saved: Any = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if len(trainer.optimizers) != 1:
                raise ModelError(
                    f"lightning_callback: the module has {len(trainer.optimizers)} optimizers, one is trained sparse; "
                    "call rarefy.sparse_training for it in configure_optimizers"
                )
            options = dict(arguments)
            if "total_steps" not in options and trainer.estimated_stepping_batches != float("inf"):
                options["total_steps"] = int(trainer.estimated_stepping_batches)
            if self.trainer is not None:
                self.trainer.detach()  # of a training that was broken off
            self.trainer = sparse_training(pl_module, trainer.optimizers[0], method, state=self._saved, **options)

        def state_dict(self) -> dict[str, Any]:
            return {} if self.trainer is None else self.trainer.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._saved = state_dict or None

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.trainer.detach()

    return SparseTraining()


def _lightning() -> Any:
    """Lightning under either of its names."""
    try:
        return import_module("lightning.pytorch")
    except ImportError:
        return import_module("pytorch_lightning")
