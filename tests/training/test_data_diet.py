"""Scores of examples."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import DataError, SparsityError
from rarefy.training.data_diet import el2n, grand, keep_examples, score_examples

CLASSES = 4


def data(count: int = 600, flipped: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Clusters with a share of wrong labels; which ones are wrong."""
    torch.manual_seed(seed)
    centres = 3.0 * torch.randn(CLASSES, 10)
    y = torch.randint(CLASSES, (count,))
    x = centres[y] + torch.randn(count, 10)
    wrong = torch.rand(count) < flipped
    return x, torch.where(wrong, (y + 1) % CLASSES, y), wrong


def net(x: Tensor, y: Tensor, width: int, seed: int, steps: int = 30) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def auc(score: Tensor, positive: Tensor) -> float:
    return float((score[positive][:, None] > score[~positive][None]).float().mean())


def ranks(x: Tensor) -> Tensor:
    return x.argsort().argsort().float()


def test_wrong_labels_are_hardest() -> None:
    def check(kind: str) -> None:
        x, y, wrong = data()
        steps = 30 if kind == "trained" else 0
        models = [net(x, y, 32, seed, steps) for seed in range(4)]
        assert auc(score_examples(models, [(x, y)]), wrong) > 0.9

    assert_beats_impostor(check, "trained", "untrained nets")


def test_scores_of_two_widths_agree() -> None:
    x, y, _ = data()
    first = score_examples([net(x, y, 16, s) for s in range(4)], [(x, y)])
    second = score_examples([net(x, y, 48, s) for s in range(4, 8)], [(x, y)])
    assert float(torch.corrcoef(torch.stack([ranks(first), ranks(second)]))[0, 1]) > 0.6


def test_grand_is_the_norm_of_each_examples_own_gradient() -> None:
    x, y, _ = data(12)
    model = net(x, y, 8, 0, 3)
    expected = []
    for i in range(12):
        grads = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
        expected.append(torch.cat([g.flatten() for g in grads]).norm())
    assert torch.allclose(grand(model, [(x[:5], y[:5]), (x[5:], y[5:])]), torch.stack(expected), rtol=1e-5)
    assert score_examples([model], [(x, y)], score="grand").shape == (12,)


def test_el2n_by_hand() -> None:
    model = nn.Identity()
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    found = el2n(model, [(logits, torch.tensor([0, 0]))])
    assert torch.allclose(found, torch.tensor([[0.3, 0.2, 0.1], [0.9, 0.1, 0.8]]).norm(dim=1))


def test_the_hardest_are_kept_but_for_the_very_hardest() -> None:
    scores = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 0.0, 6.0, 7.0, 8.0, 9.0])
    assert keep_examples(scores, 0.6).tolist() == [6, 7, 8, 9]
    assert keep_examples(scores, 0.6, drop_hardest=0.2).tolist() == [0, 2, 6, 7]
    with pytest.raises(SparsityError, match="cannot be kept"):
        keep_examples(scores, 0.1, drop_hardest=0.2)


def test_bad_labels_are_named() -> None:
    with pytest.raises(DataError, match="whole class numbers"):
        el2n(nn.Identity(), [(torch.zeros(3, 4), torch.zeros(3))])
    with pytest.raises(DataError, match="no model"):
        score_examples([], [(torch.zeros(3, 4), torch.zeros(3, dtype=torch.long))])
