import torch

from contracts.impostor import assert_beats_impostor
from contracts.models import perceptron
from rarefy.pruning import prune


def keeps_the_largest_of_each_layer(method: str) -> None:
    model = perceptron().model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prune(model, method, sparsity=0.75)
    for name in ("0.weight", "2.weight", "4.weight"):
        kept = model.state_dict()[name] != 0
        assert before[name][kept].abs().min() >= before[name][~kept].abs().max()
        assert torch.equal(model.state_dict()[name][kept], before[name][kept])


def test_magnitude() -> None:
    assert_beats_impostor(keeps_the_largest_of_each_layer, "magnitude", "random")


def test_global_allocation_ranks_over_the_layers() -> None:
    model = perceptron().model
    weights = [model[i].weight for i in (0, 2, 4)]
    with torch.no_grad():
        weights[1].mul_(10.0)
    before = torch.cat([w.detach().flatten() for w in weights]).abs()
    report = prune(model, "magnitude", sparsity=0.5, allocation="global")
    kept = torch.cat([(w != 0).flatten() for w in weights])
    assert before[kept].min() >= before[~kept].max()
    assert report.sites[1].sparsity < 0.2 < 0.8 < report.sites[0].sparsity
