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


def test_the_part_of_a_group_is_cut_as_its_need_says() -> None:
    needs = {
        Need.INPUT_SQNORM: torch.arange(6.0).view(2, 3),  # a leading axis of groups
        Need.GRADIENT: torch.arange(12.0).view(4, 3),  # an entry for each weight
        Need.REGIONAL_GRADIENT: torch.arange(12.0).view(4, 3),
        Need.ZEROTH_ORDER: torch.tensor(7.0),  # of the layer as a whole
    }
    whole = Evidence("conv", needs, tokens=5, seed=10)
    assert whole.of_group(0, 1) is whole
    part = whole.of_group(1, 2)
    assert (part.site, part.tokens, part.seed) == ("conv", 5, 11)
    assert part[Need.INPUT_SQNORM].tolist() == [3.0, 4.0, 5.0]
    assert part[Need.GRADIENT].tolist() == [[6.0, 7.0, 8.0], [9.0, 10.0, 11.0]]
    assert torch.equal(part[Need.REGIONAL_GRADIENT], part[Need.GRADIENT])
    assert part[Need.ZEROTH_ORDER].item() == 7.0
