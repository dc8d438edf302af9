"""Layouts that are not read are named, and the message says what to do."""

import pytest
import torch
from safetensors.torch import save_file

from rarefy.core.errors import FileError
from rarefy.formats import read
from rarefy.formats.elsewhere import refuse_foreign

LAYOUTS = {
    "marlin-24": ("weight_packed", "scale_packed", "meta"),
    "pack-quantized": ("weight_packed", "weight_scale", "weight_shape"),
    "GPTQ": ("qweight", "qzeros", "scales"),
    "AQLM": ("codes", "codebooks", "scales"),
    "HQQ": ("W_q", "scale", "zero"),
    "bitsandbytes": ("weight", "weight.absmax", "weight.quant_map"),
    "bitsandbytes int8": ("weight", "SCB", "weight_format"),
    "float8 in blocks": ("weight", "weight_scale_inv"),
    "semi-structured": ("weight.packed", "weight.meta"),
    "LoRA": ("lora_A.weight", "lora_B.weight"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_named_with_what_to_do(tmp_path, layout) -> None:
    stored = {f"m.{part}": torch.ones(2, dtype=torch.int32) for part in LAYOUTS[layout]}
    save_file(stored, tmp_path / "m.safetensors")
    with pytest.raises(FileError, match=rf"m\.safetensors: tensor 'm\..*{layout}.*does not read; \w+") as caught:
        read(tmp_path / "m.safetensors")
    assert len(str(caught.value).rpartition("does not read; ")[2]) > 30
    for part in LAYOUTS[layout]:
        save_file({name: t for name, t in stored.items() if name != f"m.{part}"}, tmp_path / "p.safetensors")
        alone = "bitsandbytes" not in layout and layout not in ("pack-quantized", "GPTQ", "float8 in blocks")
        if alone and part != "scale_packed":
            assert read(tmp_path / "p.safetensors").keys() == stored.keys() - {f"m.{part}"}


HQQ = "W_q scale zero nbits group_size shape axis packing view_as_float unpack_view_dtype compute_dtype quant_scale"


@pytest.mark.parametrize("names", [HQQ.split(), ["W_q", "meta"], ["W_q", "quant_config"]])
def test_hqq_is_known_in_each_of_its_forms(names) -> None:
    with pytest.raises(FileError, match=r"'model\.q_proj\.W_q': it is stored as HQQ"):
        refuse_foreign([f"model.q_proj.{name}" for name in names])


def test_ordinary_models_with_such_names_are_read() -> None:
    """A codec has codes and codebooks, attention a matrix called W_q and a scale, a head its scales."""
    for names in (("codes",), ("scales",), ("codes", "codebooks"), ("codes", "scales"), ("codebooks", "scales")):
        refuse_foreign([f"vq.{name}" for name in names])
    refuse_foreign(["attention.W_q", "attention.W_k", "attention.scale", "norm.scale", "norm.zero"])
    refuse_foreign(["attention.W_q.weight", "attention.scale", "attention.zero"])
    refuse_foreign(["a.codes", "b.codebooks", "c.scales", "my_codes", "my_codebooks", "my_scales"])
