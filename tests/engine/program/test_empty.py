"""Calls without a text or without a token: as the model answers them."""

import pytest
import torch
from torch import Tensor, nn

import rarefy
from engine.program.conftest import encoder
from rarefy.core.errors import RarefyError


def outcome(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[torch.Size | None, str | None]:
    """The shape of what a call gives, or the first line of its error."""
    try:
        with torch.no_grad():
            return model(**inputs).last_hidden_state.shape, None
    except (RarefyError, RuntimeError, IndexError) as error:
        return None, str(error).split("\n")[0]


@pytest.mark.parametrize(("rows", "tokens"), [(3, 0), (0, 12), (0, 0)])
def test_a_call_without_entries_is_the_models_and_no_instructions(rows, tokens, prefer) -> None:
    """Instructions that read a key or an id where there is none ended the process."""
    prefer("graph")
    model, mask = encoder("bert"), torch.ones(2, 12, dtype=torch.long)
    fast = rarefy.compile(model, {"input_ids": mask, "attention_mask": mask})
    none = torch.zeros(rows, tokens, dtype=torch.long)
    none = {"input_ids": none, "attention_mask": none}
    wanted, said = outcome(model, none)
    for _ in range(2):
        found, why = outcome(fast, none)
        assert found == wanted
        assert (said is None) == (why is None)
        assert said is None or said in why
