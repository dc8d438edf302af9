"""Weights that are in memory only while a module needs them; all others stay on the meta device."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Read = Callable[[str], Tensor]
_Loaded = list[tuple[nn.Module, str, nn.Parameter]]  # (module, name in it, the meta parameter that was there)


class Resident:
    """The weights of a model whose parameters are on the meta device, brought in and let go.

    read: the values of a parameter by its dotted name; mapped: the same as pages of a file, for tables of which only
    a few rows are looked up; dtype: of floating-point parameters in memory.
    """

    def __init__(self, model: nn.Module, read: Read, mapped: Read, dtype: torch.dtype) -> None:
        self.model, self.read, self.mapped, self.dtype = model, read, mapped, dtype
        self.names = {id(module): name for name, module in model.named_modules()}

    @contextmanager
    def loaded(self, *modules: nn.Module) -> Iterator[None]:
        """All weights of the modules while the context is open."""
        held: _Loaded = []
        try:
            for module in modules:
                self._load(module, held)
            yield
        finally:
            _drop(held)

    @contextmanager
    def on_call(self, inside: Sequence[nn.Module], *, blocks: bool = False) -> Iterator[None]:
        """Weights outside the modules `inside` come in when their own module is called, and stay until the end.

        blocks: those inside come in too, one of the modules at a time, only while it is called.
        """
        held: _Loaded = []
        blocked = {id(inner) for module in inside for inner in module.modules()}
        with ExitStack() as stack:
            stack.callback(lambda: _drop(held))
            for module in self.model.modules():
                if id(module) not in blocked and any(p is not None for p in module._parameters.values()):
                    stack.callback(self._hook(module, held, blocked))
                    if _is_table(module):
                        stack.callback(module.register_forward_hook(self._cast).remove)
            for module in inside if blocks else ():
                for remove in self._around(module):
                    stack.callback(remove)
            yield

    def _hook(self, module: nn.Module, held: _Loaded, blocked: set[int]) -> Callable[[], None]:
        def before(called: nn.Module, args: Any) -> None:
            self._load(called, held, blocked)

        return module.register_forward_pre_hook(before).remove

    def _around(self, module: nn.Module) -> list[Callable[[], None]]:
        held: _Loaded = []

        def before(called: nn.Module, args: Any) -> None:
            self._load(called, held)

        def after(called: nn.Module, args: Any, output: Any) -> None:
            _drop(held)

        hooks = (module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True))
        return [hook.remove for hook in hooks]

    def _cast(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output.to(self.dtype)

    def _load(self, module: nn.Module, held: _Loaded, blocked: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        """Gives every meta parameter at or below the module its values; one that two of them share stays shared."""
        known: dict[int, nn.Parameter] = {}
        for inner in module.modules():
            for leaf, parameter in inner._parameters.items() if id(inner) not in blocked else ():
                if parameter is None or not parameter.is_meta:
                    continue
                if id(parameter) not in known:
                    known[id(parameter)] = self._values(inner, leaf, table=bool(blocked) and _is_table(inner))
                inner._parameters[leaf] = known[id(parameter)]
                held.append((inner, leaf, parameter))

    def _values(self, module: nn.Module, leaf: str, *, table: bool) -> nn.Parameter:
        prefix = self.names[id(module)]
        name = f"{prefix}.{leaf}" if prefix else leaf
        values = self.mapped(name) if table else self.read(name)
        wide = values.to(self.dtype) if values.is_floating_point() and not table else values
        return nn.Parameter(wide, requires_grad=False)


def _is_table(module: nn.Module) -> bool:
    """A plain embedding: rows are looked up, nothing is computed."""
    return type(module).forward is nn.Embedding.forward and module.max_norm is None


def _drop(held: _Loaded) -> None:
    while held:
        module, leaf, parameter = held.pop()
        module._parameters[leaf] = parameter
