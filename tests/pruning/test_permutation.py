"""Channel permutation: nothing that is computed changes, and N:M keeps more."""

import pytest
import torch
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.patterns.nm import NM
from rarefy.pruning import prune
from rarefy.pruning.permutation import better_order, permute_channels


class Feed(nn.Module):
    """A pre-norm residual net with plain and gated feed-forward blocks, an embedding and a tied-off head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embed = nn.Embedding(20, 16)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.gate, self.value, self.out = nn.Linear(16, 24), nn.Linear(16, 24, bias=False), nn.Linear(24, 16)
        self.head = nn.Linear(16, 7)
        with torch.no_grad():  # large columns side by side: N:M has to drop some of them
            for layer in (self.down, self.out, self.up, self.gate, self.value, self.head):
                layer.weight[:, : layer.in_features // 2] *= 4.0
            for norm in (self.norm1, self.norm2):
                norm.weight.copy_(torch.rand(16) + 0.5)
                norm.bias.copy_(torch.randn(16))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.down(torch.nn.functional.gelu(self.up(self.norm1(x))))
        y = self.norm2(x)
        x = x + self.out(torch.nn.functional.silu(self.gate(y)) * self.value(y))
        return self.head(x)


def tokens() -> Tensor:
    return torch.randint(0, 20, (3, 5), generator=torch.Generator().manual_seed(1))


def test_the_model_computes_the_same_and_every_space_moved() -> None:
    model = Feed().eval()
    wanted, before = model(tokens()), {k: v.clone() for k, v in model.state_dict().items()}
    ratio = permute_channels(model, (tokens(),))
    torch.testing.assert_close(model(tokens()), wanted, rtol=1e-4, atol=1e-5)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert {"embed.weight", "norm1.weight", "up.weight", "down.weight", "gate.weight", "value.weight"} <= moved
    assert ratio > 1.05


def keeps_more_magnitude(permute) -> None:
    kept = []
    for arrange in (None, permute):
        model = Feed().eval()
        if arrange is not None:
            arrange(model, (tokens(),))
        report = prune(model, "magnitude", pattern="2:4", undivided="skip")
        kept.append(sum(float(model.get_submodule(s.name).weight.detach().abs().sum()) for s in report.sites))
    assert kept[1] > 1.05 * kept[0]


def test_permutation() -> None:
    assert_beats_impostor(keeps_more_magnitude, permute_channels, lambda model, x: 1.0)


def test_the_search_reaches_the_best_grouping_of_six_columns() -> None:
    """1:3 on 6 columns of two rows: all ten groupings by hand."""
    import itertools

    sizes = torch.rand(4, 6, generator=torch.Generator().manual_seed(2))
    best = max(
        float(sizes[:, [0, *rest]].amax(1).sum() + sizes[:, [c for c in range(1, 6) if c not in rest]].amax(1).sum())
        for rest in itertools.combinations(range(1, 6), 2)
    )
    order = better_order(sizes, NM(1, 3), 50, torch.Generator().manual_seed(0))
    found = float(sizes[:, order].view(4, 2, 3).amax(2).sum())
    assert found == pytest.approx(best)


def test_layers_called_twice_keep_their_order() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.shared, self.b = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.shared(torch.relu(self.shared(torch.relu(self.a(x)))))))

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(4, 8)
    wanted = model(x)
    permute_channels(model, (x,))
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-6)


def test_other_patterns_are_refused() -> None:
    with pytest.raises(SparsityError, match="no N:M pattern"):
        permute_channels(Feed(), (tokens(),), pattern="rowwise")
