"""The same model gives the same files, byte for byte, whichever process writes them."""

import os
import sys
from hashlib import sha256
from pathlib import Path
from subprocess import run

import pytest
import torch
from torch import nn

import rarefy
from rarefy.core.grid import QuantizeSpec
from rarefy.formats.interchange import write_tensors
from rarefy.recipes.store import save
from rarefy.recipes.store_engine import FILE, INPUTS
from rarefy.selectors.attach import select_inputs
from rarefy.selectors.top_k import TopK

transformers = pytest.importorskip("transformers")


def write_all(folder: Path) -> None:
    """One folder of each kind that holds tensors."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128, vocab_size=60
    )
    bert = transformers.BertForMaskedLM(config).eval()
    x = torch.randn(4, 64)
    rarefy.prune(plain, "magnitude", sparsity=0.8, measure=False)
    rarefy.prune(bert, "magnitude", sparsity=0.7, measure=False)
    save(plain, folder / "plain")
    save(plain, folder / "alone.safetensors")
    save(bert, folder / "bert")
    for layout in ("dense", "sparse-bitmask"):
        assert len(write_tensors(folder / layout, bert.bert.state_dict(), layout=layout, shard_bytes=50_000).files) > 1
    compiled = rarefy.compile(plain, x)
    save(compiled, folder / "compiled")
    save(compiled, folder / "compiled-again")
    assert (folder / "compiled" / FILE).read_bytes() == (folder / "compiled-again" / FILE).read_bytes()
    for kind in ("compiled", "compiled-again"):
        assert (folder / kind / INPUTS).exists()
        (folder / kind / FILE).unlink()  # measured times are in it: equal for one compilation only
    select_inputs(plain[2], TopK(16, torch.rand(64)))
    save(plain, folder / "selected")
    rounded = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    rarefy.prune(rounded, "magnitude", sparsity=0.5, data=[x], quantize=QuantizeSpec(8), measure=False)
    save(rounded, folder / "rounded")


def sums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def test_files_are_equal_here_and_in_another_process(tmp_path) -> None:
    write_all(tmp_path / "one")
    write_all(tmp_path / "two")
    program = "import pathlib, sys, test_store_bytes as t; t.write_all(pathlib.Path(sys.argv[1]))"
    places = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    environment = os.environ | {"PYTHONPATH": places, "PYTHONHASHSEED": seed}
    run([sys.executable, "-c", program, str(tmp_path / "three")], env=environment, check=True)
    found = sums(tmp_path / "one")
    assert len(found) > 12
    assert sums(tmp_path / "two") == found
    assert sums(tmp_path / "three") == found
