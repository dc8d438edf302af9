"""Tickets, soups and swamps: masks, zeros and what they are the same as."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.training.cycles import Cycle, average, refresh_batch_norm
from rarefy.training.lottery import lottery_tickets
from rarefy.training.soups import sparse_model_soup
from rarefy.training.swamp import swamp
from training.loops import Task, convnet, mlp


def trainer_of(task: Task, steps: int = 20, seen: list[Cycle] | None = None) -> Any:
    def train(model: nn.Module, cycle: Cycle) -> None:
        if seen is not None:
            seen.append(cycle)
        order = torch.Generator().manual_seed(cycle.seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        trainer = cycle.attach(optimizer)
        for _ in range(cycle.first_step, steps):
            x, y = task.batches[int(torch.randint(4, (), generator=order))]
            F.cross_entropy(model(x), y).backward()
            trainer.step()
            trainer.zero_grad()

    return train


def parameters(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(parameters(a), parameters(b), strict=True))


def test_a_ticket_starts_from_the_rewound_weights_and_its_masks_are_nested() -> None:
    task, seen = mlp(), []
    first = {name: value.clone() for name, value in task.model.state_dict().items()}
    ticket = lottery_tickets(task.model, trainer_of(task, seen=seen), sparsity=0.9, rounds=3)
    assert [round(r.density, 6) for r in ticket.rounds] == [1.0, *(round(0.1 ** (c / 3), 6) for c in (1, 2, 3))]
    for earlier, later in pairwise(seen):
        assert all(bool((~later.masks[n] | earlier.masks[n]).all()) for n in later.masks)
    for name, mask in ticket.masks.items():
        assert torch.equal(ticket.rewound[f"{name}.weight"], first[f"{name}.weight"] * mask)
        assert bool((task.model.state_dict()[f"{name}.weight"][~mask] == 0).all())
    total = sum(m.numel() for m in ticket.masks.values())
    assert sum(int(m.sum()) for m in ticket.masks.values()) == round(0.1 * total)


def test_late_rewinding_returns_to_that_step() -> None:
    task, seen = mlp(), []
    states: dict[int, Tensor] = {}
    plain = trainer_of(task, seen=seen)

    def train(model: nn.Module, cycle: Cycle) -> None:
        if cycle.index == 0:
            inner = cycle.look

            def look(step: int) -> None:
                states[step] = model[0].weight.detach().clone()
                inner(step)

            object.__setattr__(cycle, "look", look)
        plain(model, cycle)

    ticket = lottery_tickets(task.model, train, sparsity=0.5, rounds=1, rewind=5)
    assert torch.equal(ticket.rewound["0.weight"], states[5] * ticket.masks["0"])
    assert [cycle.first_step for cycle in seen] == [0, 5] and [r.steps for r in ticket.rounds] == [20, 15]
    with pytest.raises(SparsityError, match="was never reached"):
        lottery_tickets(mlp().model, trainer_of(task), sparsity=0.5, rounds=1, rewind=50)


def test_one_member_is_iterative_magnitude_pruning_bit_for_bit() -> None:
    task = mlp()
    soup = sparse_model_soup(task.model, trainer_of(task), sparsity=0.8, rounds=2, members=1)
    other = mlp()
    from rarefy.training.cycles import apply, full_masks, levels, nothing, run_cycle, tighter

    masks = full_masks(other.model, ())
    for index, density in enumerate(levels(0.8, 2)):
        masks = tighter(other.model, masks, density, ())
        apply(other.model, masks, ())
        run_cycle(trainer_of(other), Cycle(index, 0, index, density, 0, masks, other.model, nothing))
    assert same(task.model, other.model)
    assert all(torch.equal(soup.masks[n], masks[n]) for n in masks)


def test_a_soup_keeps_the_mask_that_averages_of_strangers_lose() -> None:
    def check(kind: str) -> None:
        task = mlp()
        if kind == "soup":
            ticket = sparse_model_soup(task.model, trainer_of(task), sparsity=0.9, rounds=2, members=3)
            total = sum(m.numel() for m in ticket.masks.values())
            for name, mask in ticket.masks.items():
                assert torch.equal(task.model.state_dict()[f"{name}.weight"] != 0, mask)
        else:
            states = []
            for seed in range(3):
                one = mlp(seed=seed)
                ticket = sparse_model_soup(one.model, trainer_of(task), sparsity=0.9, rounds=2, members=1, seed=seed)
                states.append(one.model.state_dict())
            task.model.load_state_dict(average(states))
            total = sum(m.numel() for m in ticket.masks.values())
        kept = sum(int((m.weight != 0).sum()) for m in task.model if isinstance(m, nn.Linear))
        assert kept == round(0.1 * total)

    assert_beats_impostor(check, "soup", "average of independently pruned nets")


def test_a_soup_is_the_mean_of_its_members() -> None:
    task, seen = mlp(), []
    sparse_model_soup(task.model, trainer_of(task, seen=seen), sparsity=0.5, rounds=1, members=3)
    mean = torch.stack([cycle.model[2].weight.detach().double() for cycle in seen]).mean(0).float()
    assert torch.equal(task.model[2].weight, mean)
    assert len({cycle.seed for cycle in seen}) == 3


def test_a_greedy_soup_never_scores_below_its_best_member() -> None:
    task, seen = mlp(), []
    x, y = task.batches[0]

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return -float(F.cross_entropy(model(x), y))

    train = trainer_of(task, seen=seen)
    ticket = sparse_model_soup(task.model, train, sparsity=0.8, rounds=1, members=4, recipe="greedy", evaluate=evaluate)
    assert ticket.rounds[-1].score >= max(evaluate(cycle.model) for cycle in seen) - 1e-6
    with pytest.raises(SparsityError, match="evaluate=, which is missing"):
        sparse_model_soup(task.model, train, sparsity=0.8, recipe="greedy")


def test_swamp_with_one_particle_and_no_averaging_is_the_lottery_bit_for_bit() -> None:
    one, other = mlp(), mlp()
    ticket = lottery_tickets(one.model, trainer_of(one), sparsity=0.8, rounds=2, rewind=3)
    found = swamp(other.model, trainer_of(other), sparsity=0.8, rounds=2, particles=1, rewind=3)
    assert same(one.model, other.model)
    assert all(torch.equal(found.masks[n], ticket.masks[n]) for n in ticket.masks)


def test_particles_share_the_mask_and_their_average_keeps_its_zeros() -> None:
    task, seen = convnet(), []
    inputs = [x for x, _ in task.batches]
    options: dict[str, Any] = {"rounds": 2, "particles": 3, "average_from": 12, "batches": inputs}
    ticket = swamp(task.model, trainer_of(task, seen=seen), sparsity=0.64, **options)
    assert [c.index for c in seen] == [0, 1, 1, 1, 2, 2, 2]
    for name, mask in ticket.masks.items():
        weight = task.model.state_dict()[f"{name}.weight"].reshape(mask.shape)
        assert bool((weight[~mask] == 0).all())
        assert torch.equal(seen[-1].masks[name], seen[-2].masks[name])
    assert [round(r.density, 6) for r in ticket.rounds] == [1.0, 0.6, 0.36]
    with pytest.raises(SparsityError, match="average_from: step 99 was never reached"):
        swamp(convnet().model, trainer_of(task), sparsity=0.5, rounds=1, average_from=99)


def test_the_statistics_of_batch_normalisation_are_those_of_the_data() -> None:
    task = convnet()
    inputs = [x for x, _ in task.batches]
    refresh_batch_norm(task.model, inputs)
    after = task.model[0](torch.cat(inputs))
    assert torch.allclose(task.model[1].running_mean, after.mean((0, 2, 3)), atol=1e-5)
    assert task.model[1].momentum == 0.1 and task.model[1].training


def test_a_training_that_forgets_the_masks_is_refused() -> None:
    with pytest.raises(SparsityError, match="call it once"):
        lottery_tickets(mlp().model, lambda model, cycle: None, sparsity=0.5)
    with pytest.raises(SparsityError, match="nothing to prune"):
        lottery_tickets(mlp().model, lambda model, cycle: None, sparsity=0.0)
