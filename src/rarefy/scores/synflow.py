"""Synaptic flow: a score without data whose sum is the same in every layer."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("synflow", role="score", source="Tanaka et al. 2020 (SynFlow), arXiv:2006.05467, eq. 4")
@dataclass(frozen=True)
class SynapticFlow:
    """|W_ij| dR/d|W_ij|, R = 1^T (prod_l |W_l|) 1: how much of what flows from inputs to outputs passes the weight.

    What enters a unit leaves it (the paper's theorem 1), so no layer is emptied while another has weights to give,
    if the scores are taken anew as weights go: prune in many rounds.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.SYNAPTIC_FLOW})

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        return weight.abs() * evidence[Need.SYNAPTIC_FLOW].to(weight.dtype)
