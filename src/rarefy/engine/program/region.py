"""The module that stands for a region in a graph: checks the sizes of a call, makes its outputs, runs the program."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import DTypeError, EngineError
from rarefy.engine.program.demands import StepDemand
from rarefy.engine.program.sizes import Size

_NO_MEMORY = (
    "compiled model: a tensor of the call has no memory, as under torch.export, torch.device('meta') or "
    "FakeTensorMode; run it on real ones, or trace the plain model (.to_dense())"
)


class Refused(AssertionError):
    """A call whose sizes the program was not made for; the compiled model then runs layer by layer."""


@dataclass(frozen=True)
class Signature:
    """inputs: (name, type, sizes) of each; outputs: (type, sizes, strides); same: sizes that must be equal; batch: the
    symbols that are the size of a batch whose entries do not meet, none where they may."""

    symbols: tuple[str, ...]
    inputs: tuple[tuple[str, torch.dtype, tuple[Size, ...]], ...]
    outputs: tuple[tuple[torch.dtype, tuple[Size, ...], tuple[Size, ...]], ...]
    same: tuple[tuple[Size, Size], ...]
    batch: tuple[str, ...] = ()

    def bind(self, inputs: tuple[Tensor, ...]) -> dict[str, int]:
        """The symbols' values in a call. Raises Refused where a size or type is another than the program's,
        or a size is 0."""
        values: dict[str, int] = {}
        for (name, dtype, sizes), tensor in zip(self.inputs, inputs, strict=True):
            if tensor.device.type != "cpu":
                raise DTypeError(f"compiled model: {name} is on {tensor.device}; it runs on the CPU: give it .cpu()")
            if tensor.dtype != dtype or tensor.dim() != len(sizes):
                raise Refused(f"program: {name} is {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} {sizes}")
            free = ((s.symbols[0], got) for s, got in zip(sizes, tensor.shape, strict=True) if s.is_symbol)
            for symbol, got in free:
                values.setdefault(symbol, got)
        if 0 in values.values():
            raise Refused("program: the call is empty, and instructions read at least one entry")
        for (name, _, sizes), tensor in zip(self.inputs, inputs, strict=True):
            want = tuple(size.at(values) for size in sizes)
            if tuple(tensor.shape) != want:
                raise Refused(f"program: {name} has shape {tuple(tensor.shape)}, expected {want}")
        for one, other in self.same:
            if one.at(values) != other.at(values):
                raise Refused(f"program: {one} and {other} differ")
        return values


def _addresses(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    """Where the tensors lie. Raises EngineError for one that lies nowhere (torch.device("meta"), FakeTensorMode)."""
    try:
        found = tuple([x.data_ptr() for x in tensors])
    except RuntimeError as error:  # as a FakeTensor says it
        raise EngineError(_NO_MEMORY) from error
    if 0 in found and any(x.numel() and at == 0 for x, at in zip(tensors, found, strict=True)):
        raise EngineError(_NO_MEMORY)
    return found


class Region(nn.Module):
    """A native program as a module: tensors in, a tuple of tensors out (one tensor where there is one output).

    Immutable: any number of threads may call it. kinds: what its steps are; kept: what the program points into;
    demands: what each step has to do; apart: entries of the batch that a thread takes through all steps at a time
    (0: all threads compute every step of the whole batch).
    """

    def __init__(
        self,
        program: Any,
        signature: Signature,
        kinds: tuple[str, ...],
        kept: list[Any],
        demands: tuple[StepDemand, ...] = (),
    ) -> None:
        super().__init__()
        self.demands = demands
        self._program, self.signature, self.kinds, self.kept = program, signature, kinds, kept
        self.apart = 0
        self._batch = [signature.symbols.index(name) for name in signature.batch]
        shapes = [one[2] for one in signature.inputs] + [one[1] for one in signature.outputs]
        self._own = [bool(sizes) and not set(signature.batch).isdisjoint(sizes[0].symbols) for sizes in shapes]
        self._last: tuple[Any, Any, Any] = (None, None, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Region":
        return self

    def in_parts(self, apart: int) -> "Region | None":
        """The same by parts of the batch; None where its entries may meet."""
        if not self.signature.batch:
            return None
        twin = Region(self._program, self.signature, self.kinds, self.kept, self.demands)
        twin.apart = apart
        return twin

    def _sizes(self, inputs: tuple[Tensor, ...]) -> tuple[tuple[int, ...], list[tuple[Any, Any, torch.dtype]]]:
        """(symbols' values, shape and strides and type of each output), remembered for the sizes seen last."""
        key = tuple((x.shape, x.dtype, x.device) for x in inputs)
        last = self._last  # one read: another thread may put its own
        if last[0] != key:
            values = self.signature.bind(inputs)
            made = [
                (tuple(s.at(values) for s in sizes), tuple(s.at(values) for s in strides), dtype)
                for dtype, sizes, strides in self.signature.outputs
            ]
            last = self._last = (key, tuple(values[name] for name in self.signature.symbols), made)
        return last[1], last[2]

    def _prepared(self, inputs: tuple[Tensor, ...]) -> tuple[tuple[int, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        symbols, made = self._sizes(inputs)
        whole = tuple(x if x.is_contiguous() else x.contiguous() for x in inputs)
        return symbols, whole, tuple(torch.empty_strided(a, b, dtype=c, device="cpu") for a, b, c in made)

    def _each(self, symbols: tuple[int, ...], threads: int) -> int:
        """Entries of a part; 0 where parts would leave threads without work, or there is but one."""
        if self.apart == 0:
            return 0
        batch = symbols[self._batch[0]]
        each = min(self.apart, -(-batch // threads))
        return each if threads <= batch and each < batch else 0

    def _steps(self, tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
        """Bytes from one entry of the batch to the next of every argument, 0 for those that all parts read."""
        pairs = zip(tensors, self._own, strict=True)
        return tuple(t.stride(0) * t.element_size() if own else 0 for t, own in pairs)

    def forward(self, *inputs: Tensor) -> Any:
        symbols, whole, outputs = self._prepared(inputs)
        addresses, threads = _addresses((*whole, *outputs)), torch.get_num_threads()
        each = self._each(symbols, threads)
        if each == 0:
            self._program.run(symbols, addresses, threads)
        else:
            self._program.run_apart(symbols, addresses, self._batch, each, self._steps((*whole, *outputs)), threads)
        return outputs[0] if len(outputs) == 1 else outputs

    def bound(self, *inputs: Tensor) -> Callable[..., Any]:
        """`forward` for inputs of these sizes and types, which are not looked at again."""
        symbols, made = self._sizes(inputs)
        if self.apart or len(made) > 1:
            return self
        program, (shape, strides, dtype) = self._program, made[0]

        def run(*inputs: Tensor) -> Tensor:
            whole = [x if x.is_contiguous() else x.contiguous() for x in inputs]
            output = torch.empty_strided(shape, strides, dtype=dtype, device="cpu")
            program.run(symbols, _addresses((*whole, output)), torch.get_num_threads())
            return output

        return run

    def profile(self, *inputs: Tensor) -> tuple[Any, list[tuple[str, float]]]:
        """The outputs, and (kind, milliseconds) of every instruction, timed natively.

        By parts: of all parts one after the other on one thread, shared among the threads that would compute them.
        """
        symbols, whole, outputs = self._prepared(inputs)
        tensors, threads = (*whole, *outputs), torch.get_num_threads()
        each = self._each(symbols, threads)
        if each == 0:
            times = self._program.profile(symbols, _addresses(tensors), threads)
            return outputs[0] if len(outputs) == 1 else outputs, [(kind, ns / 1e6) for kind, ns in times]
        batch, steps, sums = symbols[self._batch[0]], self._steps(tensors), [0.0] * len(self.kinds)
        for first in range(0, batch, each):
            part = tuple(min(each, batch - first) if i in self._batch else n for i, n in enumerate(symbols))
            addresses = tuple(x.data_ptr() + first * step for x, step in zip(tensors, steps, strict=True))
            times = self._program.profile(part, addresses, 1)
            sums = [total + ns for total, (_, ns) in zip(sums, times, strict=True)]
        workers = min(threads, -(-batch // each))
        named = [(kind, ns / workers / 1e6) for (kind, _), ns in zip(times, sums, strict=True)]
        return outputs[0] if len(outputs) == 1 else outputs, named

    @property
    def allocations(self) -> int:
        """How often calls have had to allocate memory of their own."""
        count: int = self._program.allocations
        return count
