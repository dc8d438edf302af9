"""Start-up and memory of two saved models of 110 M parameters (random weights, 80 % zeros): an encoder of BERT's base
size, and a Llama of its width.

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
}
ROUNDS = {"plain": 2, "compile": 1, "first": 2, "compiled": 3}
TOKENS = 128


def batch(kind: str) -> dict[str, torch.Tensor]:
    ids = torch.randint(1000, 30000, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    return (
        {"input_ids": ids % 16000} if kind == "decoder" else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    )


def make(kind: str, folder: Path) -> None:
    """Saves the model as it is, and compiled."""
    import transformers

    import rarefy

    torch.manual_seed(0)
    llama = transformers.LlamaConfig(
        vocab_size=16000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12
    )
    model = (
        transformers.LlamaForCausalLM(llama) if kind == "decoder" else transformers.BertModel(transformers.BertConfig())
    )
    rarefy.prune(model.eval(), "magnitude", sparsity=0.8, measure=False)
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
    lines = [f"1 x {TOKENS} tokens, {cpu_name()}, {torch.get_num_threads()} threads, {date.today()}. "]
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
