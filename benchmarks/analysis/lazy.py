"""Fashion-MNIST, 2,000 images to train on, 40 % of them with another label, and 2,000 to test: 784-512-512-10, 1,000
steps of 100 images, all neurons of ReLU or the 32 (128) largest of each hidden layer, in training and after. Random
text: a Llama of ReLUs as above, 200 steps on 2,000 random bytes; random labels: this net, all labels drawn anew."""

import functools
from pathlib import Path

import torch
from checks import Check
from checks_images import images
from claims import Data, accuracy, loop
from relu import Rows
from torch import Tensor, nn
from trained import Loop, Text, fresh

from rarefy.activations.lazy_neuron import TopKReLU
from rarefy.activations.relufication import Relufication
from rarefy.analysis.calibration_error import reliability
from rarefy.recipes.evaluations.language import batches_of
from rarefy.selectors import feed_forwards

TITLE = "ReLU networks and the largest neurons alone"
STEPS, NOISE = 1000, 0.4


@functools.cache
def fashion(path: Path, seed: int) -> Data:
    """Wrong labels are drawn from the nine others."""
    folder = path / "fashion_mnist"
    x, y = images(folder, "train25k", 2000)
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(y), generator=generator) < NOISE
    other = (y + torch.randint(1, 10, y.shape, generator=generator)) % 10
    return x, torch.where(wrong, other, y), *images(folder, "test_public", 2000)


@functools.cache
def _noisy(path: Path, seed: int, k: int | None) -> tuple[float, float, float]:
    """(per cent right, expected calibration error in per cent, per cent of the given labels learnt)."""
    data = fashion(path, seed)
    torch.manual_seed(seed)

    def act() -> nn.Module:
        return nn.ReLU() if k is None else TopKReLU(k)

    model = nn.Sequential(nn.Linear(784, 512), act(), nn.Linear(512, 512), act(), nn.Linear(512, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loop(model, optimizer, optimizer.step, data, STEPS, seed)
    with torch.no_grad():
        off = 100 * reliability(model(data[2]), data[3]).error
    return accuracy(model, data), off, accuracy(model, (*data[:2], *data[:2]))


def noisy(path: Path, seed: int) -> Rows:
    label = "lazy-neuron-topk, 40 % of the labels wrong: the {} largest of 512 over all"
    return [(label.format(k), _noisy(path, seed, k)[0], _noisy(path, seed, None)[0]) for k in (32, 128)]


def learnt(path: Path, seed: int) -> Rows:
    label = "lazy-neuron-topk, labels given in training, 40 % of them wrong: the {} largest of 512 below all"
    return [(label.format(k), _noisy(path, seed, k)[2], _noisy(path, seed, None)[2]) for k in (32, 128)]


def calibrated(path: Path, seed: int) -> Rows:
    label = "lazy-neuron-topk, 40 % of the labels wrong: calibration error, the {} largest of 512 below all"
    return [(label.format(k), _noisy(path, seed, k)[1], _noisy(path, seed, None)[1]) for k in (32, 128)]


def emptying(path: Path, seed: int) -> Rows:
    """Share of the neurons that fire, where there is nothing to learn but by heart."""
    text = Text(torch.randint(0, 256, (2000,), generator=torch.Generator().manual_seed(seed)), torch.empty(0))
    model = fresh(seed)
    Relufication().apply(model)
    before = firing(model, text)
    Loop(model, text, 200).run(200)
    after = firing(model, text)
    label = "lazy-neuron-topk: neurons that fire, random text, after training "
    return [(label + "below before", after, before), (label + "below 25 %", after, 25.0)]


def firing(model: nn.Module, text: Text) -> float:
    """Per cent of the neurons behind the activation that are not 0."""
    found: list[float] = []

    def see(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(100 * float((output > 0).float().mean()))

    hooks = [layer.activation.register_forward_hook(see) for layer in feed_forwards(model)]
    with torch.no_grad():
        model(**batches_of(text.seen[:1920].view(15, 128))[0])
    for hook in hooks:
        hook.remove()
    return sum(found) / len(found)


def emptying_images(path: Path, seed: int) -> Rows:
    """As above, of the hidden neurons of the net on images, for true labels and for random ones."""
    rows = []
    x, _, *test = fashion(path, seed)
    y = images(path / "fashion_mnist", "train25k", 2000)[1]
    drawn = torch.randint(0, 10, y.shape, generator=torch.Generator().manual_seed(seed))
    for name, labels in (("true labels", y), ("random labels", drawn)):
        data: Data = (x, labels, test[0], test[1])
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
        before = positive(model, x)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        loop(model, optimizer, optimizer.step, data, STEPS, seed)
        label = f"lazy-neuron-topk: neurons that fire, images with {name}, after training below "
        after = positive(model, x)
        rows += [(label + "before", after, before), (label + "25 %", after, 25.0)]
        rows.append(
            (
                f"lazy-neuron-topk: {name} learnt, in per cent, beside all",
                accuracy(model, (*data[:2], *data[:2])),
                100.0,
            )
        )
    return rows


def positive(model: nn.Sequential, x: Tensor) -> float:
    with torch.no_grad():
        first = model[:2](x)
        return 50 * float((first > 0).float().mean() + (model[2:4](first) > 0).float().mean())


CHECKS: dict[str, Check] = {
    "label-noise": Check(noisy, "% right"),
    "label-noise-learnt": Check(learnt, "% right", more=False),
    "label-noise-calibrated": Check(calibrated, "%", more=False),
    "emptying": Check(emptying, "% of the neurons", more=False),
    "emptying-images": Check(emptying_images, "%", more=False),
}
SEEDS = {"label-noise": 4, "label-noise-learnt": 4, "label-noise-calibrated": 4, "emptying": 2, "emptying-images": 2}
