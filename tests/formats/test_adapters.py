"""SHiRA and Super-Tuning adapters: read, merged as PEFT merges them, and SHiRA written for PEFT."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from formats.peers import needs, run
from rarefy.core.errors import FileError
from rarefy.formats import read
from rarefy.formats.adapters import Delta, fold, merge
from rarefy.formats.shira import write_shira

PROGRAM = Path(__file__).with_name("peft_program.py")
KINDS = ["shira", "super", "super-low", "super-least"]


def base(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (24, 16), "b.weight": (10, 24)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def shira(values: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
    root = "base_model.model.a"
    return {f"{root}.shira_weight": values, f"{root}.shira_indices": index}


def test_a_shira_adapter_is_a_change_at_rows_and_columns(tmp_path) -> None:
    index = torch.tensor([[0, 1, 1], [2, 0, 3]], dtype=torch.int32)
    for stored in (index, index.float()):  # PEFT on Windows saves them as float32
        save_file(shira(torch.tensor([1.0, 2.0, -3.0]), stored), tmp_path / "adapter_model.safetensors")
        found = read(tmp_path)
        assert found.keys() == {"a.weight"} and isinstance(found["a.weight"], Delta)
        merged = merge({"a.weight": torch.ones(2, 4), "c": torch.ones(1)}, found)
        assert merged["a.weight"].tolist() == [[1, 1, 2, 1], [3, 1, 1, -2]]
        assert merged.keys() == {"a.weight", "c"}
    with pytest.raises(FileError, match="give its base model"):
        found["a.weight"].to_dense()


def test_super_tuning_places_are_flat_and_not_sorted() -> None:
    entries = {
        "base_model.model.a.supertuning_values": torch.tensor([1.0, 2.0]),
        "base_model.model.a.supertuning_indices": torch.tensor([5, 0], dtype=torch.int32),
        "base_model.model.head.weight": torch.ones(2),
    }
    found = fold(entries)
    assert found["a.weight"].merged(torch.zeros(2, 4)).tolist() == [[2, 0, 0, 0], [0, 1, 0, 0]]
    assert torch.equal(found["head.weight"], torch.ones(2))


def test_places_that_were_not_saved_are_found_again_or_refused() -> None:
    values = {"base_model.model.a.supertuning_values": torch.tensor([1.0, 2.0])}
    weight = torch.tensor([[3.0, -5.0], [0.5, 1.0]])
    assert fold(values)["a.weight"].merged(weight).tolist() == [[5, -4], [0.5, 1]]
    least = fold(values, {"peft_type": "SUPERTUNING", "select_top": False})["a.weight"]
    assert least.merged(weight).tolist() == [[3, -5], [1.5, 3]]
    with pytest.raises(FileError, match="equal magnitude"):
        fold(values)["a.weight"].merged(torch.tensor([[3.0, -5.0], [3.0, 1.0]]))


GOOD = shira(torch.ones(3), torch.tensor([[0, 1, 1], [2, 0, 3]], dtype=torch.int32))
WRONG = {
    "count": shira(torch.ones(2), GOOD["base_model.model.a.shira_indices"]),
    "halves": shira(torch.ones(3), GOOD["base_model.model.a.shira_indices"] + 0.5),
    "sign": shira(torch.ones(3), -GOOD["base_model.model.a.shira_indices"]),
    "type": shira(torch.ones(3).int(), GOOD["base_model.model.a.shira_indices"]),
    "twice": GOOD | {"base_model.model.a.weight": torch.ones(2, 4)},
    "missing": {"base_model.model.a.shira_weight": torch.ones(3)},
    "low rank": {
        "m.supertuning_values": torch.ones(1), "m.supertuning_lora_A.weight": torch.ones(2, 4),
        "m.supertuning_lora_B.weight": torch.ones(2, 2),
    },
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_damaged_adapters_are_refused(what) -> None:
    with pytest.raises(FileError):
        fold(WRONG[what])


def test_the_wrong_base_model_is_refused() -> None:
    delta = fold(GOOD)
    for wrong in ({"a.weight": torch.ones(2, 3)}, {"a.weight": torch.ones(8)}, {"b.weight": torch.ones(2, 4)}):
        with pytest.raises(FileError):
            merge(wrong, delta)
    with pytest.raises(FileError, match="peft_type 'LORA'"):
        fold(GOOD, {"peft_type": "LORA"})
    flat = {"m.supertuning_values": torch.ones(1), "m.supertuning_indices": torch.tensor([8])}
    with pytest.raises(FileError, match="wrong base model"):
        fold(flat)["m.weight"].merged(torch.ones(2, 4))


def test_shira_is_written_with_one_rank_for_all(tmp_path) -> None:
    changes = {name: torch.zeros_like(weight) for name, weight in base().items()}
    changes["a.weight"][3, 4] = 2.0
    changes["b.weight"][:2] = 1.0  # 48 entries of 34 a rank
    assert write_shira(tmp_path, changes, base_model="mine") == 2
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert stored["base_model.model.a.shira_indices"].shape == (2, 80)
    assert stored["base_model.model.b.shira_weight"].shape == (68,)
    flat = stored["base_model.model.a.shira_indices"].long() * torch.tensor([[16], [1]])
    assert (flat.sum(0).diff() > 0).all(), "row-major order, no place twice"
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    assert said["peft_type"] == "SHIRA" and said["r"] == 2 and said["target_modules"] == ["a", "b"]
    merged = merge(base(), read(tmp_path))
    assert all(torch.equal(merged[name], weight + changes[name]) for name, weight in base().items())


def test_what_shira_cannot_hold_is_refused(tmp_path) -> None:
    for changes in ({}, {"a.weight": torch.ones(24, 16)}, {"a.bias": torch.ones(2, 2)}, {"a.weight": torch.ones(3)}):
        with pytest.raises(FileError):
            write_shira(tmp_path, changes, base_model="mine")
    assert not list(tmp_path.iterdir())


@needs("peft")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_merge_is_that_of_peft(tmp_path, kind, dtype) -> None:
    weights = base(dtype)
    if kind == "super-least":  # bfloat16 has equal magnitudes, which leave the places open
        weights = {
            name: torch.randperm(w.numel(), generator=torch.Generator().manual_seed(1)).add(1).div(512).reshape(w.shape)
            for name, w in base().items()
        }
    save_file(weights, tmp_path / "base.safetensors")
    run("peft", PROGRAM, "make", kind, tmp_path / "base.safetensors", tmp_path / "adapter")
    merged = merge(weights, read(tmp_path / "adapter"))
    expected = load_file(tmp_path / "adapter" / "merged.safetensors")
    assert merged.keys() == expected.keys()
    for name, weight in merged.items():
        assert weight.dtype == expected[name].dtype and torch.equal(weight, expected[name]), name
        assert not torch.equal(weight, weights[name])


@needs("peft")
def test_peft_merges_what_is_written(tmp_path) -> None:
    generator = torch.Generator().manual_seed(3)
    changes = {n: w * (torch.rand(w.shape, generator=generator) < 0.2) for n, w in base().items()}
    save_file(base(), tmp_path / "base.safetensors")
    write_shira(tmp_path / "adapter", changes, base_model="mine")
    run("peft", PROGRAM, "merge", tmp_path / "adapter", tmp_path / "base.safetensors", tmp_path / "out.safetensors")
    merged = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(merged[name], weight + changes[name]) for name, weight in base().items())


def low_rank(rank: int = 2, out: int = 2, width: int = 4) -> dict[str, torch.Tensor]:
    root = "base_model.model.a"
    return {
        f"{root}.supertuning_values": torch.tensor([1.0]),
        f"{root}.supertuning_indices": torch.tensor([3]),
        f"{root}.supertuning_lora_A.weight": torch.arange(float(rank * width)).view(rank, width),
        f"{root}.supertuning_lora_B.weight": torch.ones(out, rank),
    }


def test_a_low_rank_part_is_scaled_by_alpha_over_its_rank() -> None:
    config = {"peft_type": "SUPERTUNING", "lora_alpha": 6}
    delta = fold(low_rank(), config)["a.weight"]
    product = torch.ones(2, 2) @ torch.arange(8.0).view(2, 4)
    wanted = 10.0 + 6 / 2 * product
    wanted[0, 3] += 1.0
    assert torch.equal(delta.merged(torch.full((2, 4), 10.0)), wanted)
    assert delta.dtype == torch.float32 and delta.shape == ()
    mixed = low_rank() | {"base_model.model.a.supertuning_lora_B.weight": torch.ones(2, 2, dtype=torch.bfloat16)}
    with pytest.raises(FileError, match=r"low-rank parts are torch\.bfloat16 and torch\.float32"):
        fold(mixed, config)["a.weight"].merged(torch.ones(2, 4))
    with pytest.raises(FileError, match=r"its low-rank part is \(2, 4\), not \(3, 4\)"):
        delta.merged(torch.zeros(3, 4))
    with pytest.raises(FileError, match="the model has rank 3 there"):
        delta.merged(torch.zeros(3, 4, 1))
    halves = low_rank()
    del halves["base_model.model.a.supertuning_lora_B.weight"]
    with pytest.raises(FileError, match="one half of its low-rank part"):
        fold(halves, config)
    with pytest.raises(FileError, match="with lora_alpha is missing"):
        fold(low_rank(), {"peft_type": "SUPERTUNING"})
    with pytest.raises(FileError, match="do not fit each other"):
        fold(low_rank() | {"base_model.model.a.supertuning_lora_B.weight": torch.ones(2, 3)}, config)


def test_a_change_of_a_weight_that_the_model_lacks() -> None:
    found = fold(shira(torch.tensor([1.0]), torch.tensor([[0], [0]])))
    with pytest.raises(FileError, match=r"it changes 'a\.weight', which the model does not have"):
        merge({"b.weight": torch.ones(2, 2)}, found)
