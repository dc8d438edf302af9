"""Convolutions that leave out the same positions in every channel and every image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.activations.images.positions import kept_positions, random_map
from rarefy.activations.images.windows import Geometry, convolve_at, lay_out
from rarefy.core.density import density_of
from rarefy.core.errors import ModelError, ShapeError, SparsityError
from rarefy.core.registry import method
from rarefy.core.site import matches


@method(
    "semi-structured-activation",
    role="selector",
    protocols=("pattern", "schedule", "layer", "kernel"),
    source="Grimaldi et al. 2023, arXiv:2309.06626, and the authors' code",
)
@dataclass(frozen=True)
class SemiStructured:
    """Drops output positions of convolutions by one random map, redrawn each step until it is frozen.

    The share dropped rises as sparsity * (1 - (1 - (t - begin) / (end - begin))^2). From step `freeze` on (None: from
    `end`) the map stands, with all of its share: 0 <= begin < end <= freeze.
    Differs: positions that the paper's integer pooling windows would leave over count too (adaptive windows), and the
    generator is seeded.
    """

    sparsity: float = 0.5
    begin: int = 0
    end: int = 1
    freeze: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        density_of(self.sparsity)
        if not 0 <= self.begin < self.end <= self.stands:
            raise SparsityError(
                f"semi-structured-activation: begin {self.begin}, end {self.end}, freeze {self.freeze} are steps out "
                "of order; give 0 <= begin < end <= freeze, so that the map stands once its share is reached"
            )

    @property
    def stands(self) -> int:
        """The step from which on the map is drawn no more."""
        return self.end if self.freeze is None else self.freeze

    def share(self, step: int) -> float:
        """The share of positions dropped at a step."""
        progress = min(1.0, max(0.0, (step - self.begin) / (self.end - self.begin)))
        return self.sparsity * (1.0 - (1.0 - progress) ** 2)

    def attach(self, model: nn.Module, example: Tensor, *, ignore: Sequence[str] = ()) -> "PositionPruner":
        """Hangs masks on the convolutions of a model. example: images (1 or more, channels, height, width)."""
        return PositionPruner(self, model, example, ignore)


class _Masked:
    """A forward hook: the output times the mask of positions."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.mask = torch.ones(size, dtype=torch.bool)

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if tuple(output.shape[-2:]) != self.size:
            raise ShapeError(
                f"semi-structured-activation: the masks are for feature maps of {self.size}, this one is "
                f"{tuple(output.shape[-2:])}; give images of the size of `example`"
            )
        self.mask = self.mask.to(output.device)
        return output * self.mask


class PositionPruner:
    """Masks on the convolutions of a model; call `step()` after each step of the optimizer.

    masks: {name of a convolution: bool (height, width), True = computed}.
    """

    def __init__(self, method: SemiStructured, model: nn.Module, example: Tensor, ignore: Sequence[str] = ()) -> None:
        ignore = (ignore,) if isinstance(ignore, str) else tuple(ignore)
        named = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
        if lost := [p for p in ignore if not any(matches(name, [p]) for name in named)]:
            raise ModelError(f"ignore: {lost[0]!r} matches no Conv2d; they are {named[:8]}...")
        convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and not matches(n, ignore)}
        if not convolutions:
            raise ModelError(f"semi-structured-activation: {type(model).__name__} has no Conv2d that is not ignored")
        if example.dim() != 4:
            raise ShapeError(
                f"semi-structured-activation: the example has shape {tuple(example.shape)}; give images (1 or more, "
                "channels, height, width)"
            )
        self.method, self.model, self.time, self.frozen = method, model, 0, False
        self._generator = torch.Generator().manual_seed(method.seed)
        self._image = (int(example.shape[-2]), int(example.shape[-1]))
        self._hooks = {name: _Masked(size) for name, size in _sizes(model, convolutions, example).items()}
        self._handles = [convolutions[name].register_forward_hook(hook) for name, hook in self._hooks.items()]
        self._redraw()

    @property
    def masks(self) -> dict[str, Tensor]:
        return {name: hook.mask for name, hook in self._hooks.items()}

    @property
    def sparsity(self) -> float:
        """The share of positions that the convolutions leave out now."""
        return 1.0 - sum(int(m.sum()) for m in self.masks.values()) / sum(m.numel() for m in self.masks.values())

    def step(self) -> None:
        """Goes on to the next step: a new share, and a new map until it is frozen."""
        self.time += 1
        self._redraw()

    def _redraw(self) -> None:
        if not self.frozen:
            self._map = random_map(self._image, self._generator)
            self.frozen = self.time >= self.method.stands
        density = 1.0 - self.method.share(self.time)
        for hook in self._hooks.values():
            hook.mask = kept_positions(self._map, hook.size, density)

    def detach(self) -> None:
        """Takes the masks off; the convolutions are dense again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def compact(self) -> nn.Module:
        """Puts convolutions that compute only what the frozen masks keep into the model, in place, and gives it.

        A model that is one convolution stays as it is; the one that computes less is given.
        """
        if not self.frozen:
            raise ModelError(f"compact: the map is not frozen before step {self.method.stands}, this is {self.time}")
        named = dict(self.model.named_modules())
        made = {id(named[name]): CompactConv2d(named[name], mask) for name, mask in self.masks.items()}
        self.detach()
        for owner in [module for module in self.model.modules() if id(module) not in made]:
            for child, module in owner._modules.items():  # a convolution may stand in several places
                owner._modules[child] = made.get(id(module), module)
        return made.get(id(self.model), self.model)


def _sizes(model: nn.Module, convolutions: dict[str, nn.Conv2d], example: Tensor) -> dict[str, tuple[int, int]]:
    """{name: size of the feature map} of the convolutions that an example reaches."""
    found: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            size = (int(output.shape[-2]), int(output.shape[-1]))
            if found.setdefault(name, size) != size:
                raise ModelError(
                    f"semi-structured-activation: {name!r} gives feature maps of {found[name]} and of {size}, one mask "
                    "fits one size; name it in ignore="
                )

        return see

    handles = [conv.register_forward_hook(note(name)) for name, conv in convolutions.items()]
    training = [module for module in model.modules() if module.training]
    try:
        with torch.no_grad():
            model.eval()(example[:1])
    finally:
        for module in training:
            module.training = True
        for handle in handles:
            handle.remove()
    if not found:
        raise ModelError(f"semi-structured-activation: the example reaches none of {[*convolutions][:8]}...")
    return found


class CompactConv2d(nn.Module):
    """A convolution that computes the positions of `kept` and gives zeros elsewhere; shares the layer's parameters."""

    kept: Tensor

    def __init__(self, conv: nn.Module | None, kept: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        super().__init__()
        self.geometry = Geometry.of(conv)
        self.weight, self.bias = lay_out(conv).weight, conv.bias
        self.register_buffer("kept", kept.clone())

    def forward(self, x: Tensor) -> Tensor:
        return convolve_at(x, self.weight, self.bias, self.geometry, self.kept[None])

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, {int(self.kept.sum())} of {self.kept.numel()} positions"
