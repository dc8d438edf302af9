"""Run by `test_adapters.py` with the Python of an environment that has PEFT. Not a test.

python peft_program.py make KIND BASE.safetensors FOLDER     an adapter of random values, saved, and its merge
python peft_program.py merge FOLDER BASE.safetensors OUT.safetensors
"""

import sys
from pathlib import Path

import torch
from peft import PeftModel, ShiraConfig, SupertuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

KINDS = {
    "shira": lambda: ShiraConfig(r=2, target_modules=["a", "b"], init_weights=False, random_seed=1),
    "super": lambda: SupertuningConfig(target_modules=["a", "b"], sparsity=0.9, init_weights=False),
    "super-low": lambda: SupertuningConfig(target_modules=["a", "b"], sparsity=0.9, init_weights=False, r=3),
    "super-least": lambda: SupertuningConfig(
        target_modules=["a", "b"], sparsity=0.9, init_weights=False, select_top=False, save_precomputed_indices=False
    ),
}


class Net(nn.Module):
    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 24, bias=False), nn.Linear(24, 10, bias=False)
        self.to(state["a.weight"].dtype)
        self.load_state_dict(state)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


def make(kind: str, base: str, folder: str) -> None:
    torch.manual_seed(0)
    model = get_peft_model(Net(load_file(base)), KINDS[kind]())
    model.save_pretrained(folder)
    save_file(model.merge_and_unload().state_dict(), Path(folder) / "merged.safetensors")


def merge(folder: str, base: str, out: str) -> None:
    model = PeftModel.from_pretrained(Net(load_file(base)), folder)
    save_file(model.merge_and_unload().state_dict(), out)


if __name__ == "__main__":
    {"make": make, "merge": merge}[sys.argv[1]](*sys.argv[2:])
