"""Masked pre-training of convnets: what is hidden is rebuilt from a sparse encoder's maps of several scales."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.activations.images.submanifold import Visible, VisibleNorm, make_dense, make_sparse
from rarefy.activations.images.unet import Decoder
from rarefy.calibration.batches import inference
from rarefy.core.errors import ModelError, ShapeError, SparsityError
from rarefy.core.registry import method
from rarefy.core.shapes import Bool, Float
from rarefy.core.topk import exact_count, keep_top


@method(
    "spark-sparse-conv-pretraining",
    role="selector",
    protocols=("layer", "kernel"),
    source="Tian et al. 2023, arXiv:2301.03580, section 3, and the authors' code",
)
@dataclass(frozen=True)
class Spark:
    """Hides patches and trains a convnet to rebuild them; its convolutions compute visible places only.

    hidden: the share of patches hidden; width: channels of the decoder at the smallest map, halved at each doubling.
    gather_below: see SubmanifoldConv2d. Differs: the encoder may be any convnet of convolutions, batch norm and
    pooling, its scales given by names of modules; sides of images need not be equal.
    """

    hidden: float = 0.6
    width: int = 512
    gather_below: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.hidden < 1.0:
            raise SparsityError(f"spark-sparse-conv-pretraining: hidden {self.hidden} is outside (0, 1)")

    def attach(self, encoder: nn.Module, stages: Sequence[str], example: Tensor) -> "Pretraining":
        """A module whose call on images gives the loss; the encoder is made sparse in place.

        stages: names of the encoder's modules whose outputs are its maps, from the largest to the smallest, each half
        as large as the one before. example: images of the size to train on.
        """
        return Pretraining(self, encoder, stages, example)


class _Note:
    """A hook that keeps what a stage gives; an object, so that a deep copy keeps its own."""

    def __init__(self, maps: dict[str, Tensor], stage: str) -> None:
        self.maps, self.stage = maps, stage

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.maps[self.stage] = output


class Pretraining(nn.Module):
    """An encoder that sees visible patches, mask tokens and projections at each scale, and a decoder.

    Train all of it with an ordinary loop; `finish()` gives the encoder back, dense and with what it learnt.
    """

    def __init__(self, method: Spark, encoder: nn.Module, stages: Sequence[str], example: Tensor) -> None:
        super().__init__()
        self.method, self.visible, self.encoder = method, Visible(), encoder
        self._generator = torch.Generator().manual_seed(method.seed)
        self._maps: dict[str, Tensor] = {}
        named = dict(encoder.named_modules())
        for stage in stages:
            if stage not in named:
                raise ModelError(f"stages: {type(encoder).__name__} has no module {stage!r}; it has {[*named][1:9]}...")
        self._handles = [named[stage].register_forward_hook(_Note(self._maps, stage)) for stage in stages]
        self.stages = tuple(reversed(stages))  # the smallest map first, as the decoder wants them
        sizes = self._probe(example)
        self.patch = example.shape[-1] // sizes[0][-1]
        self._require(method, sizes, example)
        widths = [method.width // 2**i for i in range(len(sizes))]
        self.tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, s[1], 1, 1)) for s in sizes)
        for token in self.tokens:
            nn.init.trunc_normal_(token, std=0.02, a=-0.02, b=0.02)
        self.norms = nn.ModuleList(VisibleNorm(nn.BatchNorm2d(s[1]), self.visible) for s in sizes)
        self.projections = nn.ModuleList(
            _projection(s[1], w, first=i == 0) for i, (s, w) in enumerate(zip(sizes, widths, strict=True))
        )
        self.decoder = Decoder(int(math.log2(self.patch)), method.width, example.shape[1])
        make_sparse(encoder, self.visible, gather_below=method.gather_below)

    def _probe(self, example: Tensor) -> list[torch.Size]:
        with inference(self.encoder):
            self.encoder(example[:1])
        return [self._maps.pop(stage).shape for stage in self.stages]

    def _require(self, method: Spark, sizes: list[torch.Size], example: Tensor) -> None:
        steps = math.log2(self.patch) if self.patch else -1.0
        if steps < 1 or not steps.is_integer() or example.shape[-2] % self.patch or example.shape[-1] % self.patch:
            raise ShapeError(
                f"spark: images of {tuple(example.shape[-2:])} end in maps of {tuple(sizes[0][-2:])}; the encoder's "
                "total stride has to be a power of two that divides both sides"
            )
        if sizes[0][-1] * sizes[0][-2] < 2:
            raise ShapeError(
                f"spark: images of {tuple(example.shape[-2:])} are one patch of {self.patch} pixels, nothing would be "
                "visible; give larger images, or an encoder and stages of a smaller total stride"
            )
        for i, size in enumerate(sizes):
            if tuple(size[-2:]) != tuple(n * 2**i for n in sizes[0][-2:]):
                raise ShapeError(f"stages: map {self.stages[i]} is of {tuple(size[-2:])}; each is half the one before")
        if method.width % 2**steps:
            raise ShapeError(f"spark: width {method.width} is no multiple of {2**steps:.0f}, the patches' side")

    def draw(self, images: int, size: tuple[int, int]) -> Bool[Tensor, "images rows columns"]:
        """A random mask of patches, True = visible; the same count in every image, at least one of each kind."""
        count = size[0] * size[1]
        keep = min(count - 1, max(1, exact_count(count, 1.0 - self.method.hidden)))
        return keep_top(torch.rand(images, count, generator=self._generator), keep).view(images, *size)

    def encode(self, images: Tensor, patches: Tensor) -> list[Tensor]:
        """The encoder's maps at visible places, the smallest first."""
        self.visible.patches = patches
        pixels = self.visible.at(images.shape[2], images.shape[3])[:, None]
        self.encoder(images * pixels)
        return [self._maps.pop(stage) for stage in self.stages]  # none stays: a step's graph is freed with its loss

    def rebuild(self, images: Tensor, patches: Tensor) -> Float[Tensor, "images channels height width"]:
        """The decoder's pixels, normalised by patch, from visible patches alone."""
        filled = []
        for found, norm, token, projection in zip(
            self.encode(images, patches), self.norms, self.tokens, self.projections, strict=True
        ):
            seen = self.visible.at(found.shape[2], found.shape[3])[:, None]
            filled.append(projection(torch.where(seen, norm(found), token)))
        return self.decoder(filled)

    def forward(self, images: Tensor, patches: Tensor | None = None) -> Tensor:
        """Mean squared error over hidden patches, of pixels normalised by patch."""
        if patches is None:
            patches = self.draw(len(images), (images.shape[2] // self.patch, images.shape[3] // self.patch))
        patches = patches.to(images.device)
        wanted, found = self.patches_of(images), self.patches_of(self.rebuild(images, patches))
        wanted = (wanted - wanted.mean(2, keepdim=True)) / (wanted.var(2, keepdim=True) + 1e-6).sqrt()
        errors = (found - wanted).square().mean(2)
        return errors[~patches.flatten(1)].mean()

    def patches_of(self, images: Tensor) -> Float[Tensor, "images patches pixels"]:
        """Every patch as one row."""
        return nn.functional.unfold(images, self.patch, stride=self.patch).transpose(1, 2)

    def finish(self) -> nn.Module:
        """The encoder, dense again; hooks of the stages are taken off."""
        make_dense(self.encoder)
        for handle in self._handles:
            handle.remove()
        return self.encoder


def _projection(inner: int, out: int, *, first: bool) -> nn.Module:
    """To the decoder's channels: 1 x 1 at the smallest map (nothing where they agree), 3 x 3 at the others."""
    if first and inner == out:
        return nn.Identity()
    return nn.Conv2d(inner, out, 1 if first else 3, padding=0 if first else 1)
