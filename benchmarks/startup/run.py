"""Start-up and memory of saved models with random weights: an encoder of BERT's base size and a Llama of its width, of
110 M parameters with 80 % zeros each, and a convolutional net, ResNet-50 of twice the channels, of 94 M parameters with
95 % zeros in every convolution but the first.

    python benchmarks/startup/run.py [--work FOLDER]

Each way of loading is measured in a process of its own: seconds from the call of `rarefy.load` (and `rarefy.compile`)
until the first output, torch, transformers and rarefy being imported; memory beyond what the imports take. A second
process that loads the same folder tells what is shared. Measured times and packed weights are kept in the folder, not
in the user's cache. Writes results.md beside this file.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
WAYS = {
    "plain": "dense weights, plain torch",
    "compile": "dense weights, then compiled (times known)",
    "first": "saved compiled, first load: packs, and writes the packed weights",
    "compiled": "saved compiled, every later load: maps them",
}
MODELS = {  # what is said of them, and what they are compiled for
    "encoder": ("BERT base size, 110 M parameters (438 MB dense), fp32", {}),
    "decoder": (
        "Llama of 12 layers, 110 M parameters (438 MB dense), int8 weights",
        {"weights": "int8"},
    ),
    "convnet": ("ResNet-50 of twice the channels, 94 M parameters (375 MB dense), fp32", {}),
}
ROUNDS = {"plain": 2, "compile": 1, "first": 2, "compiled": 3}
TOKENS, PIXELS = 128, 224


def batch(kind: str) -> dict[str, torch.Tensor]:
    if kind == "convnet":
        return {"pixel_values": torch.randn(1, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))}
    ids = torch.randint(1000, 30000, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    return (
        {"input_ids": ids % 16000} if kind == "decoder" else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    )


def of_kind(kind: str) -> torch.nn.Module:
    import transformers

    if kind == "encoder":
        return transformers.BertModel(transformers.BertConfig())
    if kind == "decoder":
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=16000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12
            )
        )
    config = transformers.ResNetConfig(hidden_sizes=[512, 1024, 2048, 4096], depths=[3, 4, 6, 3])
    return transformers.ResNetForImageClassification(config)


def make(kind: str, folder: Path) -> None:
    """Saves the model as it is, and compiled."""
    import rarefy

    torch.manual_seed(0)
    model = of_kind(kind).eval()
    if kind == "convnet":
        stem = next(name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d))
        rarefy.prune(model, "magnitude", sparsity=0.95, ignore=[stem], measure=False)
    else:
        rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    rarefy.save(model, folder / "plain")
    rarefy.save(rarefy.compile(model, batch(kind), **MODELS[kind][1]), folder / "compiled")


def memory() -> dict[str, float]:
    """MiB of this process: private and shared pages now, and the peak of all."""
    status, smaps = Path("/proc/self/status").read_text(), Path("/proc/self/smaps_rollup").read_text()

    def of(field: str, text: str) -> float:
        found = re.search(rf"{field}:\s+(\d+) kB", text)
        return int(found[1]) / 1024 if found else float("nan")

    private = of("Private_Clean", smaps) + of("Private_Dirty", smaps)
    return {"private": private, "proportional": of("Pss", smaps), "peak": of("VmHWM", status)}


def child(kind: str, way: str, folder: Path, hold: bool) -> None:
    """Loads, calls, prints what it took; holds the model until its input closes."""
    import transformers
    import transformers.models.bert.modeling_bert
    import transformers.models.llama.modeling_llama
    import transformers.models.resnet.modeling_resnet

    import rarefy
    import rarefy.engine
    import rarefy.recipes.store
    from rarefy.engine.shared import clear_packed

    assert transformers
    if way == "first":
        clear_packed()
    inputs, before, began = batch(kind), memory(), time.perf_counter()
    model: Any = rarefy.load(folder / ("compiled" if way in ("first", "compiled") else "plain"))
    if way == "compile":
        model = rarefy.compile(model, inputs, **MODELS[kind][1])
    loaded = time.perf_counter() - began
    with torch.inference_mode():
        model(**inputs)
        first = time.perf_counter() - began
        model(**inputs)
    if hold:
        print("ready", flush=True)
        sys.stdin.readline()
    after = memory()
    print(json.dumps({"loaded": loaded, "first": first} | {k: after[k] - before[k] for k in before}))


def measured(kind: str, way: str, folder: Path, *, beside: bool = False) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", way, "--kind", kind, "--work", str(folder)]
    if not beside:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout.splitlines()[-1]))
    pair = [
        subprocess.Popen([*command, "--hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in pair:
        assert process.stdout is not None
        process.stdout.readline()
    found = [process.communicate("\n")[0] for process in pair]
    return dict(json.loads(found[0].splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--child", choices=WAYS)
    parser.add_argument("--kind", choices=MODELS)
    parser.add_argument("--make", action="store_true", help="save the models into --work, measure nothing")
    parser.add_argument("--hold", action="store_true")
    args = parser.parse_args()
    if args.child:
        child(args.kind, args.child, args.work, args.hold)
        return
    from rarefy.engine.cpu import cpu_name

    work = args.work or Path(tempfile.mkdtemp())
    os.environ["RAREFY_CACHE_DIR"] = str(work / "cache")
    what = f"1 x {TOKENS} tokens, or an image of {PIXELS} x {PIXELS}"
    lines = [f"{what}, {cpu_name()}, {torch.get_num_threads()} threads, {date.today()}. "]
    lines[0] += "`python benchmarks/startup/run.py` writes it."
    for kind in MODELS:
        if not (work / kind / "compiled").exists():
            make(kind, work / kind)
        if not args.make:
            lines += table(kind, work / kind)
    if args.make:
        return
    (HERE / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def table(kind: str, folder: Path) -> list[str]:
    lines = [
        "",
        f"## {MODELS[kind][0]}",
        "",
        "| way | seconds to ready | to the first output | peak MiB | private MiB | private MiB, two processes |",
        "|---|---|---|---|---|---|",
    ]
    for way, name in WAYS.items():
        runs = [measured(kind, way, folder) for _ in range(ROUNDS[way])]
        best = min(runs, key=lambda run: run["first"])
        two = "" if way == "first" else f"{measured(kind, way, folder, beside=True)['private']:.0f}"
        lines.append(
            f"| {name} | {best['loaded']:.2f} | {best['first']:.2f} | {best['peak']:.0f} | {best['private']:.0f} | "
            f"{two} |"
        )
    return lines


if __name__ == "__main__":
    main()
