"""What leaving out positions, patches, windows and image tokens buys in time; random weights, one run, in turn.

    python benchmarks/activations/images.py [positions] [patches] [windows] [tokens]

All parts without arguments. Times: medians of interleaved rounds in milliseconds, on torch.get_num_threads() threads.
positions: 3 x 3 convolutions of ResNet-18's shapes, one image: the gathered product of all, half and a quarter of the
positions, torch's own convolution beside it. patches: the same shapes, four images, hidden patches of stride 32. Images
and weights lie channels last in both, which is torch's faster way too. windows: Swin-T's shape at 448 x 448. tokens: a
Llama shape (d 1024, ff 2816, 8 blocks) after a prompt of 576 image tokens, 64 of which resemble the 32 of text; a
token a step, 40 % of the neurons.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rarefy.activations.images.core_neurons import narrowed
from rarefy.activations.images.corematching import CoreMatching
from rarefy.activations.images.positions import kept_positions, random_map
from rarefy.activations.images.sparsevit import SparseViT
from rarefy.activations.images.windows import Geometry, convolve_at, lay_out
from rarefy.core.timing import interleaved

LAST = torch.channels_last
SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, side


def positions() -> None:
    print("positions: channels, side | gathered: all, half, a quarter | torch conv2d | ratio")
    for channels, side in SHAPES:
        conv, x = layer(channels), torch.randn(1, channels, side, side).contiguous(memory_format=LAST)
        scores = random_map((224, 224), torch.Generator().manual_seed(0))
        shares = {"all": 1.0, "half": 0.5, "quarter": 0.25}
        calls = {n: at(conv, x, kept_positions(scores, (side, side), d)[None]) for n, d in shares.items()}
        calls["dense"] = of(conv, x)
        show(f"{channels}, {side}", calls, "all", "half")


def patches() -> None:
    print("patches: hidden | channels, side | torch conv2d times the mask | gathered | ratio")
    for hidden in (0.6, 0.75, 0.9):
        for channels, side in SHAPES:
            conv, x = layer(channels), torch.randn(4, channels, side, side).contiguous(memory_format=LAST)
            coarse = torch.rand(4, 49).argsort(1).argsort(1).view(4, 7, 7) < round(49 * (1 - hidden))
            active = coarse.repeat_interleave(side // 7, 1).repeat_interleave(side // 7, 2)
            calls = {"masked": times(conv, x, active), "gathered": at(conv, x, active)}
            show(f"{hidden:.0%} | {channels}, {side}", calls, "masked", "gathered")


def windows() -> None:
    from transformers import SwinConfig, SwinModel

    model, x = SwinModel(SwinConfig(image_size=448)).eval(), torch.randn(1, 3, 448, 448)
    pruning = SparseViT().attach(model)

    def run(ratio: float) -> Callable[[], Any]:
        def call() -> Any:
            pruning.ratios = [ratio] * len(pruning.blocks)
            return model(x)

        return call

    print("windows, Swin-T, 448 x 448: share left out | ms | against none")
    found = interleaved({f"{r:.0%}": run(r) for r in (0.0, 0.2, 0.4, 0.6, 0.8)}, rounds=7, seconds=12)
    for name in found.times:
        print(f"| {name} | {found.median(name):.1f} | {found.ratio(name, '0%'):.2f} |")


def tokens() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16,
                         num_key_value_heads=16, vocab_size=4000)  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    image, alike = torch.arange(608) < 576, torch.arange(608) % 9 == 0  # 64 needles among the image tokens
    alike |= ~image
    embeds = torch.randn(1, 608, 1024)
    embeds[:, alike] = 1.5 * torch.randn(1024) + 0.3 * embeds[:, alike]
    dense = CoreMatching(alpha=1.0, beta=1.0, layer=0).read(model, torch.zeros_like(image), inputs_embeds=embeds)
    few = CoreMatching(layer=0).read(model, image, inputs_embeds=embeds)
    times: dict[str, list[float]] = {"dense": [], "tokens": [], "both": []}
    for _ in range(9):
        times["dense"].append(once(lambda: dense.step(5)))
        times["tokens"].append(once(lambda: few.step(5)))
        with narrowed(model, few.cores):
            times["both"].append(once(lambda: few.step(5)))
    print(f"tokens: {len(few.kept)} of 608 kept; a step: ms")
    for name, all_times in times.items():
        middle = sorted(all_times)[len(all_times) // 2]
        print(f"| {name} | {middle:.1f} | {sorted(times['dense'])[4] / middle:.2f} |")


def layer(channels: int) -> nn.Conv2d:
    return lay_out(nn.Conv2d(channels, channels, 3, padding=1))


def once(call: Callable[[], Any]) -> float:
    return interleaved({"it": call}, rounds=1, warmup=1).median("it")


def of(conv: nn.Conv2d, x: torch.Tensor) -> Callable[[], Any]:
    return lambda: conv(x)


def times(conv: nn.Conv2d, x: torch.Tensor, active: torch.Tensor) -> Callable[[], Any]:
    return lambda: conv(x) * active[:, None]


def at(conv: nn.Conv2d, x: torch.Tensor, active: torch.Tensor) -> Callable[[], Any]:
    geometry = Geometry.of(conv)
    return lambda: convolve_at(x, conv.weight, conv.bias, geometry, active)


def show(name: str, calls: dict[str, Callable[[], Any]], slow: str, fast: str) -> None:
    found = interleaved(calls, rounds=9, warmup=2, seconds=2)
    cells = [f"{found.median(call):.2f}" for call in calls]
    print(f"| {name} | {' | '.join(cells)} | {slow} / {fast} = {found.ratio(fast, slow):.2f} |")


if __name__ == "__main__":
    parts = {"positions": positions, "patches": patches, "windows": windows, "tokens": tokens}
    torch.manual_seed(0)
    with torch.no_grad():
        for part in sys.argv[1:] or parts:
            parts[part]()
