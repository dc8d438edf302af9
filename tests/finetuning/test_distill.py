"""Recovery brings a pruned model closer to its teacher and never brings a zero back."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

import rarefy
from contracts.models import perceptron
from rarefy.core.errors import DataError, SparsityError
from rarefy.finetuning.distill_state import DistillState

transformers = pytest.importorskip("transformers")


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=20,
    )
    return transformers.BertModel(config, add_pooling_layer=False).eval()


def text(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(8, 12, dtype=torch.long)
    mask[::2, 9:] = 0
    return [
        {"input_ids": torch.randint(0, 50, (8, 12), generator=generator), "attention_mask": mask} for _ in range(count)
    ]


def distance(a: nn.Module, b: nn.Module, batch: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        x, y = a(**batch).last_hidden_state, b(**batch).last_hidden_state
    return float((x - y).square().mean())


@pytest.fixture(scope="module")
def recovered() -> tuple[nn.Module, nn.Module, nn.Module, Any]:
    teacher = bert()
    student = copy.deepcopy(teacher)
    rarefy.prune(student, "magnitude", sparsity=0.6, measure=False)
    before = copy.deepcopy(student)
    report = rarefy.distill(student, teacher, text(12), steps=60, lr=2e-3, seed=3)
    return teacher, before, student, report


def test_the_student_comes_closer_on_unseen_input(recovered) -> None:
    teacher, before, student, report = recovered
    unseen = text(13)[-1]
    assert distance(student, teacher, unseen) < 0.5 * distance(before, teacher, unseen)
    assert len(report.losses) == report.steps == 60
    assert report.losses[-1] < report.losses[0]


def test_zeros_stay_exactly_zero_and_nothing_else_becomes_zero(recovered) -> None:
    _, before, student, _ = recovered
    for (name, old), new in zip(before.named_parameters(), student.parameters(), strict=True):
        if old.dim() == 2 and "encoder" in name:
            assert torch.equal(old == 0, new == 0), name


def test_only_the_blocks_are_trained_and_the_teacher_is_untouched(recovered) -> None:
    teacher, before, student, _ = recovered
    assert torch.equal(before.embeddings.word_embeddings.weight, student.embeddings.word_embeddings.weight)
    assert not torch.equal(
        before.encoder.layer[0].output.LayerNorm.weight, student.encoder.layer[0].output.LayerNorm.weight
    )
    fresh = bert()
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), fresh.parameters(), strict=True))
    assert all(p.grad is None and p.requires_grad for model in (teacher, student) for p in model.parameters())


def test_the_same_seed_gives_the_same_model_and_another_another() -> None:
    def run(seed: int) -> torch.Tensor:
        case = perceptron()
        teacher = copy.deepcopy(case.model)
        rarefy.prune(case.model, "magnitude", sparsity=0.5, measure=False)
        batches = [torch.randn(8, 16, generator=torch.Generator().manual_seed(i)) for i in range(6)]
        rarefy.distill(case.model, teacher, batches, steps=5, seed=seed)
        return torch.cat([p.detach().flatten() for p in case.model.parameters()])

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_the_embedding_counts_where_one_is_given() -> None:
    teacher = bert()
    student = copy.deepcopy(teacher)
    rarefy.prune(student, "magnitude", sparsity=0.6, measure=False)
    seen: list[tuple[int, ...]] = []

    def embed(output: Any, batch: Any) -> torch.Tensor:
        vectors = output.last_hidden_state.mean(1)
        seen.append(tuple(vectors.shape))
        return vectors

    with_it = rarefy.distill(copy.deepcopy(student), teacher, text(2), steps=1, embed=embed)
    without = rarefy.distill(copy.deepcopy(student), teacher, text(2), steps=1)
    assert seen == [(8, 32), (8, 32)]
    assert with_it.losses[0] > without.losses[0]


def test_a_time_limit_ends_it_early() -> None:
    case = perceptron()
    report = rarefy.distill(case.model, copy.deepcopy(case.model), case.batches, steps=10**6, seconds=0.3)
    assert 1 <= report.steps < 10**6


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"steps": 0}, SparsityError, "steps=0"),
        ({"lr": 0.0}, SparsityError, "lr=0.0"),
        ({"data": []}, DataError, "empty"),
        ({"data": [torch.full((4, 16), float("nan"))]}, DataError, "NaN"),
        ({"lr": 1e30, "steps": 20}, DataError, "lower lr"),
    ],
)
def test_what_cannot_be_done_says_why(change, error, said) -> None:
    case = perceptron()
    arguments = {"data": case.batches, "steps": 2, **change}
    teacher = copy.deepcopy(case.model)
    rarefy.prune(case.model, "magnitude", sparsity=0.5, measure=False)
    with pytest.raises(error, match=said):
        rarefy.distill(case.model, teacher, arguments.pop("data"), **arguments)
    assert all(p.requires_grad for p in case.model.parameters())


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_a_state_is_gone_on_with_to_the_same_weights_bit_for_bit(steps: int) -> None:
    teacher = bert()
    pruned = copy.deepcopy(teacher)
    rarefy.prune(pruned, "magnitude", sparsity=0.6, measure=False)
    asked: dict[str, Any] = {"data": text(6), "steps": 20, "lr": 2e-3, "seed": 3}
    states: list[DistillState] = []
    calm = copy.deepcopy(pruned)
    whole = rarefy.distill(calm, teacher, **asked, keep=lambda state: states.append(copy.deepcopy(state())))
    assert [state.steps for state in states] == list(range(1, 21))
    again = copy.deepcopy(pruned)
    report = rarefy.distill(again, teacher, **asked, state=states[steps - 1])
    assert report.losses == whole.losses
    for (name, a), b in zip(calm.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(_bits(a), _bits(b)), name


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32) if tensor.is_floating_point() else tensor


def test_seconds_that_were_used_count() -> None:
    case = perceptron()
    states: list[DistillState] = []
    teacher = copy.deepcopy(case.model)
    first = copy.deepcopy(case.model)
    rarefy.distill(first, teacher, case.batches, steps=3, keep=lambda state: states.append(copy.deepcopy(state())))
    spent = dataclasses.replace(states[-1], seconds=50.0)
    report = rarefy.distill(case.model, teacher, case.batches, steps=10**6, seconds=50.0, state=spent)
    assert (report.steps, report.losses) == (3, spent.losses)
    assert 50.0 <= report.seconds < 60.0


def test_draws_of_the_model_go_on_where_they_were() -> None:
    class Noise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.1 * torch.randn_like(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), Noise(), nn.Linear(8, 8))
    batches, states = [torch.randn(4, 8)], []
    calm, again = copy.deepcopy(model), copy.deepcopy(model)
    rarefy.distill(calm, model, batches, steps=9, keep=lambda state: states.append(copy.deepcopy(state())))
    torch.manual_seed(5)
    rarefy.distill(again, model, batches, steps=9, state=states[4])
    assert all(torch.equal(a, b) for a, b in zip(calm.parameters(), again.parameters(), strict=True))


def test_the_state_of_another_student_is_refused() -> None:
    case = perceptron()
    states: list[DistillState] = []
    other = nn.Sequential(nn.Linear(16, 16))
    rarefy.distill(other, copy.deepcopy(other), case.batches, steps=1, keep=lambda state: states.append(state()))
    with pytest.raises(DataError, match="another student"):
        rarefy.distill(case.model, copy.deepcopy(case.model), case.batches, steps=2, state=states[0])
