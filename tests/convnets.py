"""A small convolutional net, made to run natively whatever the times."""

import torch
import torch.nn.functional as F
from torch import nn

from rarefy.core.site import find_sites
from rarefy.engine import conv_times
from rarefy.engine.capture import capture
from rarefy.engine.conv_plan import conv_plans_of, images_of
from rarefy.engine.fuse import rewrite
from rarefy.engine.fuse_conv import fuse_convs
from rarefy.engine.precision import Precision


class Small(nn.Module):
    """A stem with pooling, a residual block whose shortcut is a convolution, an end; odd sizes on purpose."""

    def __init__(self, end: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 5, 2, 2, bias=False), nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv1, self.norm1 = nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.norm2 = nn.Conv2d(12, 12, 3, 1, 1), nn.BatchNorm2d(12)
        self.short, self.norm3 = nn.Conv2d(8, 12, 1, 2, bias=False), nn.BatchNorm2d(12)
        self.end = end or nn.ReLU()
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.pool(F.relu(self.norm0(self.stem(x))))
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return self.head(self.end(y + self.norm3(self.short(x))).mean((2, 3)))


def prepared(model, density=0.2):
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            with torch.no_grad():
                module.weight.mul_(torch.rand(module.weight.shape, generator=generator) < density)
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5), module.bias.normal_()
                module.running_mean.normal_(), module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def native_everywhere(monkeypatch):
    """Plans as if every native kernel won (8-bit ones where they are tried): which one does is no matter here."""

    def pretend(kind, weight, window, image, names, measure):
        eight = [name for name in names if "8-" in name]
        return {"dense": 1.0, (eight or names)[-1]: 0.1}, "pretended"

    monkeypatch.setattr(conv_times, "known_times", pretend)


def fused(model, x, monkeypatch, precision=Precision()):
    native_everywhere(monkeypatch)
    sites = [s for s in find_sites(model)[0] if isinstance(s.module, nn.Conv2d)]
    images = images_of(sites, lambda: model(x))
    plans, _ = conv_plans_of(sites, {name: [image] for name, image in images.items()}, precision)
    graph = capture(model, ((x,), {}))
    done = fuse_convs(graph, plans, images)
    return rewrite(graph, {}, {})[0], done


def modules_of(graph, kind):
    called = [graph.get_submodule(n.target) for n in graph.graph.nodes if n.op == "call_module"]
    return [m for m in called if isinstance(m, kind)]
