"""A training step of ResNet-18 with 95 % zeros in all convolutions but the first, beside dense and SparseProp."""

import torch
from resnet18 import convolutions, replace, resnet18, sparse_resnet18
from sides import Sides, Target, options, page, table, timed, training
from torch import nn

from rarefy.training.runtime import SparseConv2d

IMAGES, SIZE, SPARSITY = 64, 64, 0.95


def step(model: nn.Module):
    """Forward, backward, and SGD with momentum."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator)
    labels = torch.randint(0, 100, (IMAGES,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def call() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return call


def sparse() -> nn.Module:
    """The network whose convolutions hold only their kept weights."""
    model = sparse_resnet18(SPARSITY)
    replace(model, {conv: SparseConv2d.from_dense(conv, conv.weight != 0) for conv in convolutions(model)})
    return model.train()


def main() -> None:
    asked = options(__doc__)
    ours, masked = step(sparse()), step(sparse_resnet18(SPARSITY).train())
    first = (ours(), masked())
    if abs(first[0] - first[1]) > 1e-4 * abs(first[1]):
        raise SystemExit(f"the sparse network's first loss is {first[0]}, the masked one's {first[1]}")
    sides = Sides()
    sides.turns["torch dense"] = training(step(resnet18().train()))
    sides.turns["rarefy"] = training(ours)
    arguments = [str(n) for n in (IMAGES, SIZE, SPARSITY, asked.threads)]
    sides.peer("sparseprop", "sparseprop", "run_sparseprop.py", "resnet18", *arguments)
    times = timed(sides, 2 if asked.quick else 7, seconds=0.2)
    sides.close()
    rows = [[name, times.ms(name), times.ratio("rarefy", name)] for name in times.rounds]
    target = Target("a step at 95 %, times dense", 1.8, times.ratio("rarefy", "torch dense"))
    body = f"{IMAGES} images of {SIZE} x {SIZE}, SGD with momentum.\n\n" + table(
        ["side", "ms a step", "rarefy is faster by"], rows
    )
    page("speed_resnet18", "A sparse ResNet-18 in training", body, [target], sides.missing, asked)


if __name__ == "__main__":
    main()
