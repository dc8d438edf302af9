import pytest
import torch

from rarefy.core.errors import EvidenceError
from rarefy.core.evidence import Evidence, Need


def test_what_was_collected_is_handed_over() -> None:
    evidence = Evidence("fc", {Need.INPUT_SQNORM: torch.ones(3)}, tokens=7)
    assert evidence[Need.INPUT_SQNORM].tolist() == [1.0, 1.0, 1.0]
    assert list(evidence) == [Need.INPUT_SQNORM]
    assert len(evidence) == 1


@pytest.mark.parametrize("need", list(Need))
def test_what_was_not_names_the_need_the_site_and_the_remedy(need: Need) -> None:
    with pytest.raises(EvidenceError) as caught:
        Evidence("blocks.2.fc")[need]
    said = str(caught.value)
    assert need.name in said
    assert "blocks.2.fc" in said
    assert "give `data`" in said
    assert ("`loss`" in said) is need.wants_loss
