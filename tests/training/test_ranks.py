"""Two processes train one net: their masks and weights stay the same."""

import os
import socket
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import rarefy
from contracts.impostor import assert_beats_impostor
from training.loops import Skipping, Task, adam, mlp, sgd, skipping


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _work(rank: int, port: int, method: str, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    task = mlp()
    model = DistributedDataParallel(task.model)
    options: dict[str, Any] = {"every": 3}
    trainer = rarefy.sparse_training(
        model, adam(model), method, sparsity=0.75, total_steps=20, seed=5 if method == "set" else rank, **options
    )
    own = Task(model, task.batches[2 * rank : 2 * rank + 2])  # each rank sees its own data
    for step in range(20):
        own.loss(step).backward()
        trainer.step()
        trainer.zero_grad()
    torch.save({"masks": trainer.masks, "model": task.model.state_dict()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("method", ["rigl", "set", "gmp-zhu-gupta"])
def test_ranks_agree(method: str, tmp_path: Any) -> None:
    """Even where their seeds differ: rank 0's masks are everybody's."""
    mp.spawn(_work, (_free_port(), method, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(mask, second["masks"][name]) for name, mask in first["masks"].items())
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())
    start = mlp().model.state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in first["model"].items())


def _step(own: Task, model: Any, step: int, accumulate: bool) -> None:
    """The gradient of a step on one rank; accumulated, its first half stays on the rank until the second comes."""
    if accumulate:
        with model.no_sync():
            (own.loss(step) / 2).backward()
        (own.loss(step + 1) / 2).backward()
    else:
        own.loss(step).backward()


def _reduced(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for accumulate in (False, True):
        task = mlp()
        model = DistributedDataParallel(task.model)
        trainer = rarefy.sparse_training(model, sgd(model), "rigl", sparsity=0.75, total_steps=12, every=3)
        own = Task(model, task.batches[2 * rank : 2 * rank + 2])
        for step in range(12):
            _step(own, model, step, accumulate)
            trainer.step()
            trainer.zero_grad()
        found = {"masks": trainer.masks, "model": task.model.state_dict()}
        torch.save(found, f"{folder}/{accumulate}{rank}.pt")
    dist.destroy_process_group()


def test_growth_uses_the_gradient_of_all_ranks(tmp_path: Any) -> None:
    """Two ranks keep what one process keeps that sees the data of both, and not what it keeps with half of them."""
    mp.spawn(_reduced, (_free_port(), str(tmp_path)), nprocs=2)
    for accumulate in (False, True):
        found = torch.load(tmp_path / f"{accumulate}0.pt", weights_only=True)

        def check(ranks: tuple[int, ...], accumulate: bool = accumulate, found: Any = found) -> None:
            task = mlp()
            trainer = rarefy.sparse_training(
                task.model, sgd(task.model), "rigl", sparsity=0.75, total_steps=12, every=3
            )
            for step in range(12):
                for rank in ranks:
                    own = Task(task.model, task.batches[2 * rank : 2 * rank + 2])
                    both = (own.loss(step) + own.loss(step + 1)) / 2 if accumulate else own.loss(step)
                    (both / len(ranks)).backward()
                trainer.step()
                trainer.zero_grad()
            assert all(torch.equal(mask, found["masks"][name]) for name, mask in trainer.masks.items())
            assert all(torch.allclose(p, found["model"][n], atol=1e-5) for n, p in task.model.state_dict().items())

        assert_beats_impostor(check, (0, 1), (0,))


def _joined(rank: int, port: int) -> None:
    """A rank that gives up after a minute without word from the other."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=60))


def _entropy(model: Any, batch: Any) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def _normed() -> Task:
    """With a buffer that a data-parallel wrapper sends around whenever it is called."""
    task = mlp()
    task.model.insert(1, torch.nn.BatchNorm1d(64))
    return task


def _looks(rank: int, port: int, methods: dict[str, dict[str, Any]], given: tuple[int, ...], folder: str) -> None:
    """Trains by each method where rank 0 has been given two batches and rank 1 so many others."""
    _joined(rank, port)
    for method, count in product(methods, given):
        task = _normed()
        model = DistributedDataParallel(task.model)
        data = task.batches[:2] if rank == 0 else [(-3 * x, y.flip(0)) for x, y in task.batches[2 : 2 + count]]
        trainer = rarefy.sparse_training(model, adam(model), method, data=data, loss=_entropy, **methods[method])
        own = Task(model, task.batches[2 * rank : 2 * rank + 2])
        for step in range(12):
            own.loss(step).backward()
            trainer.step()
            trainer.zero_grad()
        _keep(trainer, task, f"{folder}/{method}{count}-{rank}.pt")
    dist.destroy_process_group()


def _keep(trainer: Any, task: Task, path: str) -> None:
    memory = {key: float(value) for key, value in trainer.run.memory.items()}
    weights = {name: p.detach() for name, p in task.model.named_parameters()}
    torch.save({"masks": trainer.masks, "weights": weights, "memory": memory}, path)


def _agreed(path: str) -> dict[str, Any]:
    """What the ranks came to, which has to be the same."""
    first, second = (torch.load(f"{path}-{rank}.pt", weights_only=True) for rank in range(2))
    for part in ("masks", "weights"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    assert first["memory"] == second["memory"]
    found: dict[str, Any] = first
    return found


LOOKING = {
    "hypersparse-art": {"sparsity": 0.5, "total_steps": 12, "every": 2, "begin": 0.2, "end": 0.9, "first": 1e-3},
    "irrelevant-weight-decay": {"sparsity": 0.9, "total_steps": 12, "every": 2, "tolerance": 0.02},
}


def test_ranks_with_data_of_their_own_cut_together(tmp_path: Any) -> None:
    """Each looks at a loss of its own, or at none; what they decide by is the mean."""
    mp.spawn(_looks, (_free_port(), LOOKING, (0, 1, 2), str(tmp_path)), nprocs=2)
    for method, given in product(LOOKING, (0, 1, 2)):
        found = _agreed(f"{tmp_path}/{method}{given}")
        assert any(not bool(mask.all()) for mask in found["masks"].values())


PRUNING = {
    name: {"sparsity": 0.8, "total_steps": 12} for name in ("snip", "grasp", "synflow", "robust-pai", "random-pruning")
}


def test_ranks_begin_with_the_mask_and_the_values_of_rank_0(tmp_path: Any) -> None:
    """Though each has pruned by its own data, of which rank 1 has less."""
    mp.spawn(_looks, (_free_port(), PRUNING, (1,), str(tmp_path)), nprocs=2)
    for method in PRUNING:
        found = _agreed(f"{tmp_path}/{method}1")
        for name, mask in found["masks"].items():
            assert torch.equal(found["weights"][f"{name}.weight"] != 0, mask)


def _given(rank: int, port: int, folder: str) -> None:
    """Each rank has zeros of its own when the training begins."""
    _joined(rank, port)
    task = mlp()
    model = DistributedDataParallel(task.model)
    rarefy.prune(task.model, "random", sparsity=0.5, seed=rank)
    _keep(rarefy.sparse_training(model, adam(model), "static", start="given"), task, f"{folder}/given-{rank}.pt")
    dist.destroy_process_group()


def test_given_zeros_are_those_of_rank_0(tmp_path: Any) -> None:
    mp.spawn(_given, (_free_port(), str(tmp_path)), nprocs=2)
    _agreed(f"{tmp_path}/given")


def _apart(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    task = skipping()
    inner = task.model
    assert isinstance(inner, Skipping)
    model = DistributedDataParallel(inner, find_unused_parameters=True)
    trainer = rarefy.sparse_training(model, sgd(model), "rigl", sparsity=0.75, total_steps=20, every=3)
    own = Task(model, task.batches[2 * rank : 2 * rank + 2])
    kept = []
    for step in range(14):
        inner.routed = step < 4 or (step < 8 and rank == 1)  # by all, by one, by none
        own.loss(step).backward()
        trainer.step()
        trainer.zero_grad()
        kept.append(trainer.masks["expert"].clone())
    torch.save({"kept": kept, "model": inner.state_dict()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_a_weight_is_left_out_on_all_ranks_or_on_none(tmp_path: Any) -> None:
    mp.spawn(_apart, (_free_port(), str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first["kept"], second["kept"], strict=True))
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())
    kept = first["kept"]
    assert not torch.equal(kept[5], kept[7]) and torch.equal(kept[8], kept[13])
