"""Layers and penalties that train activation sparsity: what each of them promises, and what its impostor breaks."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from activations.tiny import WIDTH, llama, next_loss, opt, text, train
from contracts.impostor import assert_beats_impostor
from rarefy.activations.deft import Deft
from rarefy.activations.fatrelu import FATReLU, fatrelu
from rarefy.activations.penalty import L1, ActivationPenalty, Hoyer, SmoothCount
from rarefy.activations.prompt_neurons import select_by_prompt
from rarefy.activations.prosparse import ProSparse
from rarefy.activations.relufication import Relufication, ShiftedReLU
from rarefy.activations.turbo_sparse_drelu import DReLU, drelu
from rarefy.core.errors import DataError, ModelError, SparsityError
from rarefy.schedules.constant import Constant
from rarefy.schedules.staged_sine import StagedSine
from rarefy.selectors import TopK, detach, feed_forwards, hidden_selector, select_hidden, select_inputs
from rarefy.selectors.attach import attached


def density(model: nn.Module) -> float:
    """Share of nonzero inputs of the down projections, as they are multiplied."""
    seen = []
    hooks = [
        layer.down.register_forward_pre_hook(lambda m, a: seen.append((a[0] != 0).float().mean()))
        for layer in feed_forwards(model)
    ]
    with torch.no_grad():
        model(input_ids=text())
    for hook in hooks:
        hook.remove()
    return float(torch.stack(seen).mean())


def test_drelu_leaves_a_quarter_where_reglu_leaves_half_and_swiglu_all() -> None:
    def check(change: str) -> None:
        model = llama(layers=3)
        {"drelu": DReLU().apply, "reglu": Relufication().apply, "swiglu": detach}[change](model)
        assert density(model) == pytest.approx(0.25, abs=0.04)

    assert_beats_impostor(check, "drelu", "reglu")
    assert density(llama()) == 1.0


def test_drelu_is_the_product_of_two_relus_in_value_and_gradient() -> None:
    model = llama(layers=1)
    DReLU().apply(model)
    layer = feed_forwards(model)[0]
    x = torch.randn(5, WIDTH, requires_grad=True)
    mlp = model.get_submodule(layer.name)
    mine = mlp(x)
    wanted = layer.down.weight @ drelu(layer.gate(x), layer.up(x)).T
    assert torch.allclose(mine, wanted.T, atol=1e-6)
    got, hoped = (torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0] for y in (mine, wanted))
    assert torch.allclose(got, hoped, atol=1e-5)
    assert set(model.state_dict()) == set(llama(layers=1).state_dict())


def test_drelu_wants_a_gate() -> None:
    with pytest.raises(ModelError, match="no gate"):
        DReLU().apply(opt())


@pytest.mark.parametrize(("function", "at"), [("relu", 0.5), ("shifted", 0.2), ("squared", 0.25)])
def test_relufication_swaps_the_function_in_gated_and_plain_layers(function: str, at: float) -> None:
    for model in (llama("gelu"), opt()):
        method = Relufication(function, shift=0.3 if function == "shifted" else 0.0)
        names = method.apply(model)
        assert len(names) == 2
        for layer in feed_forwards(model):
            assert float(layer.activation(torch.tensor(0.5))) == pytest.approx(at)
            assert float(layer.activation(torch.tensor(-0.5))) == 0.0


def test_the_second_stage_rectifies_what_the_projections_read() -> None:
    model = llama()
    Relufication(inputs=True).apply(model)
    seen: list[torch.Tensor] = []
    block = model.model.layers[0]
    for module in (block.self_attn.q_proj, block.mlp.up_proj):
        module.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    train(model, 1)
    assert all(bool((x >= 0).all()) and 0.3 < float((x == 0).float().mean()) < 0.7 for x in seen)
    with pytest.raises(SparsityError, match="shift"):
        Relufication(shift=1.0)
    assert str(ShiftedReLU(0.5)) == "ShiftedReLU(shift=0.5)"


def test_fatrelu_drops_small_values_only_and_only_of_a_relu() -> None:
    model = llama("relu")
    before = density(model)
    gates = feed_forwards(model)[0].activation
    x = torch.randn(100)
    FATReLU(0.1).apply(model)
    assert torch.equal(gates(x), fatrelu(x, 0.1))
    assert torch.equal(gates(x)[x > 0.1], x[x > 0.1])
    assert density(model) < before - 0.02
    with pytest.raises(ModelError, match="not ReLU"):
        FATReLU(0.1).apply(llama())
    with pytest.raises(SparsityError, match="negative"):
        FATReLU(-1.0)


def test_the_hoyer_term_cannot_be_cheated_by_scale_and_the_l1_term_can() -> None:
    def check(term: object) -> None:
        h = torch.relu(torch.randn(16, 40))
        assert float(term(h)) == pytest.approx(float(term(0.01 * h)), rel=1e-4)
        even = (torch.arange(40) < 10).float().expand(4, 40)
        assert float(term(even)) == pytest.approx(0.25)

    assert_beats_impostor(check, Hoyer(), L1())
    assert float(Hoyer()(torch.zeros(3, 4))) == 0.0
    h = torch.zeros(3, 4, requires_grad=True)
    Hoyer()(h).backward()
    assert bool(h.grad.isfinite().all())


def test_the_smooth_count_counts() -> None:
    h = torch.relu(torch.randn(64, 50)) * 10
    assert float(SmoothCount(1000.0)(h)) == pytest.approx(float((h > 0).float().mean()), abs=1e-3)


def test_alpha_zero_is_plain_training_bit_for_bit() -> None:
    def check(alpha: float) -> None:
        plain, mine = llama("relu"), llama("relu")
        train(plain, 3)
        with Deft(alpha).attach(mine) as penalty:
            train(mine, 3, penalty=penalty)
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), mine.parameters(), strict=True))

    assert_beats_impostor(check, 0.0, 0.1)


class Low(nn.Module):
    """A low-rank addition to a frozen layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.a = layer, nn.Parameter(torch.randn(8, layer.in_features) * 0.1)
        self.b = nn.Parameter(torch.zeros(layer.out_features, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + x @ self.a.T @ self.b.T


def lora(alpha: float) -> tuple[float, float, float]:
    """(accuracy, density, how far the base moved) of a digits-like classifier tuned by low-rank additions."""
    torch.manual_seed(0)
    centres = torch.randn(4, 20) * 2
    label = torch.arange(400) % 4
    x = centres[label] + torch.randn(400, 20)
    base = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4))
    before = copy.deepcopy(base.state_dict())
    base.requires_grad_(False)
    model = nn.Sequential(Low(base[0]), nn.ReLU(), Low(base[2]))
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    with Deft(alpha).attach(model, layers=["2"]) as penalty:
        for _ in range(250):
            loss = nn.functional.cross_entropy(model(x[:200]), label[:200]) + penalty.loss()
            adam.zero_grad()
            loss.backward()
            adam.step()
        right = float((model(x[200:]).argmax(1) == label[200:]).float().mean())
        moved = max(float((v - before[k]).abs().max()) for k, v in base.state_dict().items())
        return right, penalty.density()["2"], moved


def test_deft_lowers_the_density_of_a_low_rank_fine_tuning_and_moves_no_base_weight() -> None:
    plain, some, more = lora(0.0), lora(0.3), lora(1.0)
    assert some[1] <= 0.7 * plain[1] and more[1] < some[1]
    assert some[0] >= plain[0] - 0.01
    assert plain[2] == some[2] == more[2] == 0.0


def test_the_stages_join_without_a_jump_and_never_fall() -> None:
    def check(schedule: object) -> None:
        values = [schedule(step) for step in range(400)]
        assert values[0] == values[50] == 0.1 and values[-1] == 1.0
        assert all(0.0 <= b - a < 0.02 for a, b in pairwise(values))
        assert schedule(200) == pytest.approx(0.4)
        slopes = [schedule(200 + d) - schedule(200 + d - 1) for d in (-99, 0, 1, 100)]
        assert all(s < 1e-3 for s in slopes)  # flat at both borders of a stage

    assert_beats_impostor(check, StagedSine((100, 200, 300), (0.1, 0.4, 1.0)), Constant(0.1))
    for ends, values in [((1, 2), (0.1,)), ((2, 1), (0.1, 0.2)), ((1, 2), (0.2, 0.1))]:
        with pytest.raises(SparsityError):
            StagedSine(ends, values)


def test_prosparse_makes_a_smooth_model_sparse_at_a_small_loss() -> None:
    def check(weight: float) -> None:
        model = llama()
        method = ProSparse(ends=(20, 60, 160), weights=(weight / 10, weight / 2, weight), threshold=0.05)
        with method.begin(model) as penalty:
            train(model, 160, penalty=penalty)
        method.finish(model)
        with torch.no_grad():
            loss = float(next_loss(model, text(32, seed=0)))
        assert loss < 0.6 * math.log(32)
        assert density(model) < 0.2

    assert_beats_impostor(check, 20.0, 0.0)


def test_a_penalty_says_what_it_lacks_and_leaves_nothing_behind() -> None:
    model = llama("relu")
    penalty = ActivationPenalty(model, L1(), 0.1)
    with pytest.raises(DataError, match="call the model first"):
        penalty.loss()
    real = torch.ones(8, 24, dtype=torch.bool)
    real[:, 10:] = False
    model(input_ids=text())
    assert penalty.loss(real).item() != penalty.loss().item()
    penalty.close()
    assert not any(m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ModelError, match="is not there"):
        ActivationPenalty(model, L1(), 0.1, ["nowhere"])
    with pytest.raises(ModelError, match="looked"):
        ActivationPenalty(nn.Linear(2, 2), L1(), 0.1)


def test_the_neurons_that_are_left_give_the_dense_output_by_themselves() -> None:
    """What a decoder does with it: rows of up and columns of down of the active neurons only."""
    model = llama(layers=1)
    ProSparse(threshold=0.01).begin(model).close()
    ProSparse(threshold=0.01).finish(model)
    layer, x = feed_forwards(model)[0], torch.randn(6, WIDTH)
    with torch.no_grad():
        wanted = model.get_submodule(layer.name)(x)
        active = hidden_selector(layer.activation)(torch.relu(layer.gate(x)))
        assert active.index.shape[1] < layer.up.out_features
        up = torch.einsum("tkd,td->tk", layer.up.weight[active.index], x)
        found = torch.einsum("tk,tkd->td", active.value * up, layer.down.weight.T[active.index])
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda model: FATReLU().apply(model), "hidden"),
        (lambda model: select_by_prompt(model, [text()], sparsity=0.5), "hidden"),
        (lambda model: DReLU().apply(model), "down_proj"),
        (lambda model: Relufication("squared", inputs=True).apply(model), "up_proj"),
    ],
)
def test_a_selector_in_the_way_is_named_before_anything_changes(change, place: str) -> None:
    model = llama("relu")
    last = model.model.layers[1].mlp
    select_hidden(last.act_fn, TopK(8)) if place == "hidden" else select_inputs(getattr(last, place), TopK(8))
    with torch.no_grad():
        wanted = model(input_ids=text()).logits
    with pytest.raises(ModelError, match=r"layers\.1\.mlp.* has a selector already; call detach"):
        change(model)
    with torch.no_grad():
        assert torch.equal(model(input_ids=text()).logits, wanted)
    assert len(list(attached(model))) == 1 and model.config.hidden_act == "relu"


@pytest.mark.parametrize("kind", [llama, opt])
def test_the_penalty_takes_an_attention_mask_as_it_is(kind) -> None:
    model, mask = kind(), torch.ones(8, 24, dtype=torch.long)
    mask[:, 10:] = 0
    seen: list[torch.Tensor] = []
    for layer in feed_forwards(model):
        layer.down.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().reshape(192, -1)))
    with ActivationPenalty(model, L1(), 1.0) as penalty:
        model(input_ids=text())
        wanted = torch.stack([hidden[mask.bool().flatten()].abs().mean() for hidden in seen]).mean()
        assert penalty.loss(mask).item() == penalty.loss(mask.bool()).item() == pytest.approx(wanted.item(), rel=1e-5)
        with pytest.raises(DataError, match=r"real has shape \(4, 24\), but a layer saw 192"):
            penalty.loss(mask[:4])
