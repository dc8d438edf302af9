"""Methods that move their zeros: each against its formula, and against a mask that stands still."""

import copy
import math
import re
import warnings
from itertools import pairwise, product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import DataError, ModelError, SparsityError
from rarefy.training.clock import Clock
from rarefy.training.srigl import ConstantFanIn
from rarefy.training.teddy import edge_scores, keep_edges
from training.loops import Task, adam, mlp, sgd, start, train
from training.runs import in_both

INFORMATIVE, INPUTS = 20, 100


def planted(seed: int = 0) -> Task:
    """Four classes that depend on the first 20 of 100 inputs."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(INPUTS, 64), nn.ReLU(), nn.Linear(64, 4))
    rule = torch.randn(INFORMATIVE, 4)
    inputs = [torch.randn(512, INPUTS) for _ in range(8)]
    return Task(model, [(x, (x[:, :INFORMATIVE] @ rule).argmax(1)) for x in inputs])


def trained(
    method: str, steps: int = 400, task: Task | None = None, **options: object
) -> rarefy.training.SparseTrainer:
    task = task or planted()
    trainer, _ = start(task, method, sgd, sparsity=0.9, total_steps=steps, **options)
    list(train(task, trainer, steps))
    return trainer


def informative_auc(mask: Tensor) -> float:
    """How well the number of connections of an input tells informative inputs from the others."""
    degree = mask.sum(0).float()
    more = degree[:INFORMATIVE, None] > degree[None, INFORMATIVE:]
    same = degree[:INFORMATIVE, None] == degree[None, INFORMATIVE:]
    return float((more.float() + 0.5 * same.float()).mean())


def test_set_connects_what_informs() -> None:
    def check(method: str) -> None:
        options = {"every": 20} if method == "set" else {}
        assert informative_auc(trained(method, **options).masks["0"]) > 0.8

    assert_beats_impostor(check, "set", "static")


def test_set_drops_from_both_signs_where_magnitude_would_take_one() -> None:
    """Positive weights are large and negative ones small: magnitude would drop negative ones only."""
    model = nn.Linear(40, 40, bias=False)
    trainer, _ = start(Task(model, []), "set", sgd, sparsity=0.5, every=1, spread=0.0)
    state = trainer.run.states[0]
    with torch.no_grad():
        sign = torch.rand(40, 40) < 0.5
        model.weight.copy_(torch.where(sign, 1.0 + torch.rand(40, 40), -0.1 * torch.rand(40, 40) - 0.01) * state.mask)
    before, old = model.weight.detach().clone(), state.mask.clone()
    trainer.method.topology.update(trainer.run, 1)
    gone = old & ~state.mask
    assert int(gone.sum()) == round(0.3 * int(old.sum()))
    dropped = before[gone]
    assert abs(int((dropped > 0).sum()) - 0.3 * int((before > 0).sum())) <= 1
    assert dropped[dropped > 0].max() <= before[old & state.mask & (before > 0)].min()


def test_rigl_exchanges_the_smallest_weights_for_the_largest_gradients() -> None:
    task = mlp()
    trainer, _ = start(task, "rigl", sgd, every=5, fraction=0.4)
    list(train(task, trainer, 5))
    twin = copy.deepcopy(task)  # of which no trainer knows: its gradient is dense
    twin.loss(5).backward()
    task.loss(5).backward()
    state = trainer.run.states[1]
    weight, grad, old = state.value().clone(), twin.model[2].weight.grad, state.mask.clone()
    assert torch.equal(state.grad(), grad * old)
    trainer.step()
    kept = int(old.sum())
    fraction = 0.4 * (1 + math.cos(math.pi * 5 / 18)) / 2  # 18 = 75 % of 24 steps
    drop = kept - round(kept * (1 - fraction))
    survivors = weight.abs().masked_fill(~old, -1).flatten().topk(kept - drop).indices
    expected = torch.zeros_like(old).flatten()
    expected[survivors] = True
    free = grad.abs().flatten().masked_fill(expected, -1)
    expected[free.topk(drop).indices] = True
    assert torch.equal(state.mask.flatten(), expected)
    assert bool((state.value()[state.mask & ~old] == 0).all())
    assert torch.equal(state.value()[state.mask & old], weight[state.mask & old]), "the change replaces the step"


def test_rigl_beats_a_mask_that_stands_still() -> None:
    def check(method: str) -> None:
        options = {"every": 10} if method == "rigl" else {}
        task = planted()
        trained(method, task=task, **options)
        with torch.no_grad():
            losses = [float(F.cross_entropy(task.model(x), y)) for x, y in task.batches]
        assert sum(losses) / len(losses) < 0.1

    assert_beats_impostor(check, "rigl", "static")


def test_momentum_grows_on_informative_inputs_twice_as_often_as_chance() -> None:
    def share(method: str, seed: int) -> float:
        task = planted(seed)
        trainer, _ = start(task, method, sgd, sparsity=0.9, total_steps=200, every=20, end=1.0)
        grown = torch.zeros(64, INPUTS)
        before = trainer.masks["0"].clone()
        for _ in train(task, trainer, 200):
            grown += trainer.masks["0"] & ~before
            before = trainer.masks["0"].clone()
        return float(grown[:, :INFORMATIVE].sum() / grown.sum())

    def check(method: str) -> None:
        assert share(method, 0) >= 2 * share("set", 0)

    assert_beats_impostor(check, "sparse-momentum", "set")


def test_sparse_momentum_moves_weights_between_layers_and_keeps_their_number() -> None:
    task = mlp()
    trainer, _ = start(task, "sparse-momentum", sgd, sparsity=0.9, total_steps=100, every=10)
    counts = {tuple(state.kept for state in trainer.run.states)}
    for _ in train(task, trainer, 100):
        counts.add(tuple(state.kept for state in trainer.run.states))
    assert len({sum(c) for c in counts}) == 1
    assert len(counts) > 3


@pytest.mark.parametrize(
    ("method", "sparsity", "more"), [("teddy", 0.98, {}), ("sparse-momentum", 0.995, {"every": 5})]
)
def test_a_layer_that_is_down_to_one_weight_is_named(method: str, sparsity: float, more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layers = nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4)
    task = Task(nn.Sequential(*layers), [])
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(1))
    task.batches = [(x, x[:, :4].abs().argmax(1))]
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1, momentum=0.9)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = rarefy.sparse_training(task.model, optimizer, method, sparsity=sparsity, total_steps=80, **more)
        alone = set()
        for _ in train(task, trainer, 80):
            alone |= {state.name for state in trainer.run.states if state.kept == 1}
    assert alone
    texts = [str(one.message) for one in said if "one weight is left of" in str(one.message)]
    named = [name for text in texts for name in text.split("left of ")[1].split(", which")[0].split(", ")]
    assert sorted(named) == sorted(alone)  # each of them, and once


def test_a_share_of_less_than_two_weights_is_no_collapse() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = nn.Linear(10, 1)
        rarefy.sparse_training(model, adam(model), "set", sparsity=0.9, allocation="uniform", every=2, total_steps=10)


def test_sparse_momentum_needs_momentum_and_free_entries() -> None:
    task = mlp()
    trainer, _ = start(
        task, "sparse-momentum", lambda m: torch.optim.SGD(m.parameters(), lr=0.1), every=2, sparsity=0.5
    )
    with pytest.raises(ModelError, match="keeps none; use SGD with momentum"):
        list(train(task, trainer, 2))
    with pytest.raises(SparsityError, match="chooses how many weights each layer keeps, which FanIn"):
        start(mlp(), "sparse-momentum", pattern="fanin", sparsity=0.5)


def test_dst_ee_without_exploration_is_rigl_and_with_it_tries_more() -> None:
    rigl, plain = trained("rigl", every=10), trained("dst-ee", every=10, c=0.0)
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in rigl.masks.items())
    curious = trained("dst-ee", every=10, c=1e-2)
    assert (curious.report().explored or 0) > (rigl.report().explored or 0)
    state = curious.run.states[0]
    assert int(state.extra["rounds"].max()) == 29  # every 10 of 300 steps, step 0 and the last excluded


def test_dst_ee_with_a_huge_bonus_grows_only_what_was_never_kept() -> None:
    task = planted()
    trainer, _ = start(task, "dst-ee", sgd, sparsity=0.9, total_steps=400, every=10, c=1e9)
    tried = trainer.masks["0"].clone()
    for step, _ in enumerate(train(task, trainer, 60)):
        grown = trainer.masks["0"] & ~tried
        if step and step % 10 == 0:
            assert int(grown.sum()) > 0
        tried |= trainer.masks["0"]
    fresh = int(trainer.run.states[0].explored.sum())
    assert fresh == int(tried.sum())


def test_srigl_keeps_equal_rows_and_ablates_neurons_where_few_inputs_matter() -> None:
    task = planted()
    trainer, _ = start(task, "srigl", sgd, sparsity=0.97, total_steps=400, every=20, gamma=0.5, allocation="uniform")
    first, last = trainer.run.states
    budget = first.count
    for _ in train(task, trainer, 400):
        rows = first.mask.sum(1)
        alive = rows[rows > 0]
        assert int(alive.min()) == int(alive.max())
        assert budget - len(alive) < int(alive.sum()) <= budget
    assert len(alive) < 64, "no neuron was ablated"
    assert bool(last.mask.any(1).all()), "an output lost all its inputs"


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.95, 1.0, 3.0])
@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_srigl_spends_the_budget_of_each_layer_whatever_its_gamma(gamma: float, sparsity: float) -> None:
    """Up to the entries that do not make another input for every neuron that is left."""
    for _, task, _, trainer in in_both("srigl", gamma=gamma, sparsity=sparsity, every=3):
        for _ in train(task, trainer, 30):
            for state in trainer.run.states:
                rows = state.mask.sum(1)
                alive = rows[rows > 0]
                assert int(alive.min()) == int(alive.max())
                assert state.count - len(alive) < state.kept <= state.count, state.name
        assert gamma < 2 or len(trainer.masks["2"].any(1).nonzero()) == -(-trainer.run["2"].count // 64)


def test_srigl_by_hand() -> None:
    """Two neurons of four inputs, fan-in 2; neuron 1 has no salient entry and goes."""
    model = nn.Linear(4, 2, bias=False)
    trainer, _ = start(Task(model, []), "srigl", sgd, sparsity=0.5, gamma=0.6)
    state = trainer.run.states[0]
    state.mask = torch.tensor([[True, True, False, False], [True, True, False, False]])
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[5.0, 4.0, 0, 0], [0.1, 0.2, 0, 0]]))
    grad = torch.tensor([[0.0, 0, 3.0, 2.0], [0.0, 0.0, 0.5, 0.4]])
    mask = ConstantFanIn().choose(state, grad, 0.5, ablate=True)
    assert mask.tolist() == [[True, True, True, True], [False, False, False, False]]
    mask = ConstantFanIn().choose(state, grad, 0.5, ablate=False)
    assert mask.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_deep_rewiring_drops_only_what_crossed_zero() -> None:
    task = planted()
    trainer, _ = start(task, "deep-rewiring", sgd, sparsity=0.9, l1=1e-3, temperature=1e-7)
    state = trainer.run.states[0]
    kept, moved = state.kept, 0
    for step in range(80):
        task.loss(step).backward()
        old, sign = state.mask.clone(), state.extra["sign"].clone()
        trainer.step()
        trainer.zero_grad()
        assert state.kept == kept
        stayed = old & state.mask
        assert bool((state.value() * sign >= 0)[stayed].all())
        moved += int((old & ~state.mask).sum())
    assert moved > 20


class Factorisation(nn.Module):
    def __init__(self, users: int, items: int, width: int) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, width), nn.Embedding(items, width)

    def forward(self, pairs: Tensor) -> Tensor:
        return (self.user(pairs[:, 0]) * self.item(pairs[:, 1])).sum(1)


def test_popular_items_get_more_live_entries() -> None:
    def check(method: str) -> None:
        torch.manual_seed(0)
        truth = Factorisation(60, 80, 4)
        chances = 1.0 / torch.arange(1, 81).float()
        model = Factorisation(60, 80, 16)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        options = {"every": 10} if method != "static" else {}
        made = rarefy.training.dsl_recommendation.dynamic_sparse_learning(**options)
        if method == "static":
            made = rarefy.training.SparseMethod(made.start, rarefy.training.fixed.Fixed(), embeddings=True)
        trainer = rarefy.sparse_training(model, optimizer, made, sparsity=0.8, total_steps=400)
        counts = [state.kept for state in trainer.run.states]
        for _ in range(400):
            pairs = torch.stack([torch.randint(60, (256,)), torch.multinomial(chances, 256, replacement=True)], 1)
            ((model(pairs) - truth(pairs).detach()) ** 2).mean().backward()
            trainer.step()
            trainer.zero_grad()
            assert [state.kept for state in trainer.run.states] == counts
        live = trainer.masks["item"].sum(1).float()
        ranks = live.argsort().argsort().float()
        popularity = torch.arange(80, 0, -1).float()
        assert float(torch.corrcoef(torch.stack([ranks, popularity]))[0, 1]) > 0.3

    assert_beats_impostor(check, "dsl-recommendation", "static")


def test_tables_with_sparse_gradients_are_refused_at_the_beginning() -> None:
    model = nn.ModuleDict({"item": nn.Embedding(60, 16, sparse=True), "user": nn.Embedding(80, 16)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"sparsity": 0.8, "total_steps": 40}
    with pytest.raises(ModelError, match=r"item: an Embedding with sparse=True.*; make it with sparse=False"):
        rarefy.sparse_training(model, optimizer, "dsl-recommendation", **settings)
    trainer = rarefy.sparse_training(model, optimizer, "dsl-recommendation", ignore=["item"], **settings)
    assert list(trainer.masks) == ["user"]


def test_teddy_scores_edges_as_a_loop_does() -> None:
    torch.manual_seed(0)
    nodes = 30
    upper = torch.triu(torch.rand(nodes, nodes) < 0.2, 1)
    adjacency = upper | upper.T | torch.eye(nodes, dtype=torch.bool)
    edges = adjacency.nonzero().T
    neighbours = [[j for j in range(nodes) if j != i and bool(adjacency[i, j])] for i in range(nodes)]
    degree = [max(1, len(n)) for n in neighbours]
    mean = [sum(degree[j] ** -0.5 for j in n) / degree[i] for i, n in enumerate(neighbours)]
    expected = [mean[i] / degree[i] * mean[j] / degree[j] for i, j in edges.T.tolist()]
    assert torch.allclose(edge_scores(edges, nodes), torch.tensor(expected), rtol=1e-5)
    kept = keep_edges(edges, nodes, 0.5)
    loops = edges[0] == edges[1]
    assert int((kept[0] == kept[1]).sum()) == int(loops.sum())
    assert kept.shape[1] == int(loops.sum()) + round(0.5 * int((~loops).sum()))
    with pytest.raises(DataError, match="numbers in"):
        edge_scores(torch.tensor([[0], [30]]), nodes)


def test_teddy_keeps_the_count_of_the_whole_model_while_its_support_moves() -> None:
    def check(method: str) -> None:
        task = planted()
        trainer, _ = start(task, method, sgd, sparsity=0.9, total_steps=60)
        total = sum(state.mask.numel() for state in trainer.run.states)
        supports = []
        for _ in train(task, trainer, 60):
            assert sum(state.kept for state in trainer.run.states) == total - -(-total * 9 // 10)
            supports.append(trainer.masks["0"].clone())
        assert int((supports[0] ^ supports[-1]).sum()) > 20
        returned = [(b & ~a).any() for a, b in pairwise(supports)]
        assert sum(bool(r) for r in returned) > 10

    assert_beats_impostor(check, "teddy", "static")


STILL = ["rigl", "set", "srigl", "sparse-momentum", "dst-ee", "ssvi", "top-kast"]


@pytest.mark.parametrize("method", STILL)
def test_a_clock_that_never_ticks_is_said_at_the_start(method: str) -> None:
    """With 90 steps and a change every 100 these are static masks; as advised they move."""
    task = planted()
    with pytest.warns(
        UserWarning, match=rf"{method}: with total_steps=90 and every=100 the masks never change"
    ) as said:
        trainer, _ = start(task, method, sgd, sparsity=0.9, total_steps=90)
    masks = {name: mask.clone() for name, mask in trainer.masks.items()}
    list(train(task, trainer, 90))
    assert all(torch.equal(masks[name], mask) for name, mask in trainer.masks.items())
    advised = int(re.findall(r"give every=(\d+), say", str(said[0].message))[0])
    task = planted()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer, _ = start(task, method, sgd, sparsity=0.9, total_steps=90, every=advised)
    masks = {name: mask.clone() for name, mask in trainer.masks.items()}
    list(train(task, trainer, 90))
    assert any(not torch.equal(masks[name], mask) for name, mask in trainer.masks.items())


def test_a_clock_ticks_where_it_is_due() -> None:
    """`ticks` says what counting says."""
    run = start(planted(), "static", sgd, sparsity=0.9)[0].run
    for every, begin, end, total in product((1, 2, 3, 7), (0.0, 0.3), (0.5, 1.0), (1, 2, 3, 8, 10)):
        clock, run.total_steps = Clock(every, begin, end), total
        assert clock.ticks(total) == any(clock.due(run, "test", done) for done in range(total + 1))
