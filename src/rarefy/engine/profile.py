"""Timing the steps of a compiled model one by one, however it runs: as a graph, as layers, or as it was given."""

import operator
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.fx._pytree import tree_flatten_spec

from rarefy.engine.ceiling import ceiling
from rarefy.engine.conv_region import ConvRegion
from rarefy.engine.demand import Demand, Step
from rarefy.engine.fused_conv import FusedConv2d, FusedConv8, FusedConvPool, demand_of
from rarefy.engine.profile_report import Profile, profile_of
from rarefy.engine.program import Region
from rarefy.engine.sparse_conv import SparseConv2d
from rarefy.engine.sparse_linear import SparseLinear
from rarefy.ops import PackedWeight
from rarefy.ops.conv8 import PackedConv8
from rarefy.ops.packed import find

Example = tuple[tuple[Any, ...], dict[str, Any]]
_packed_linear = torch.ops.rarefy.packed_linear.default
_FREE = {operator.getitem}  # costs nothing but Python


def profile_run(run: Callable[..., Any], label: str, call: Callable[[], Any], example: Example, rounds: int) -> Profile:
    """The profile of a variant's call: each step's median over rounds. call: as users make it, the whole's time."""
    one = _graph_steps if isinstance(run, GraphModule) else _layer_steps
    with torch.inference_mode():
        one(run, example)
        call()
        taken = [(one(run, example), _milliseconds(call)) for _ in range(rounds)]
    steps = [_median(same) for same in zip(*(steps for steps, _ in taken), strict=True)]
    return profile_of(steps, median(ms for _, ms in taken), label, torch.get_num_threads(), ceiling())


def _milliseconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def _median(same: Sequence[Step]) -> Step:
    first = same[0]
    return Step(first.name, first.kind, median(step.ms for step in same), first.demand)


def _graph_steps(run: Any, example: Example) -> list[Step]:
    """Node by node; native programs and runs of convolutions tell their own steps."""
    timer = _Timer(run)
    timer.run(*_flat(run, example), enable_io_processing=False)
    return timer.steps


def _flat(run: GraphModule, example: Example) -> list[Any]:
    """The arguments as the graph's placeholders take them."""
    information = getattr(run.graph._codegen, "pytree_info", None)
    if information is None or information.in_spec is None:
        return list(example[0])
    return list(tree_flatten_spec((tuple(example[0]), dict(example[1])), information.in_spec))


class _Timer(Interpreter):
    """Runs a graph and notes what each node took."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.steps: list[Step] = []

    def run_node(self, n: Node) -> Any:
        if n.op not in ("call_function", "call_module", "call_method") or n.target in _FREE:
            return super().run_node(n)
        module = self.submodules[str(n.target)] if n.op == "call_module" else None
        if isinstance(module, Region | ConvRegion):
            return self._region(n, module)
        begin = time.perf_counter()
        out = super().run_node(n)
        ms = (time.perf_counter() - begin) * 1e3
        if not n.name.startswith("_guards"):
            self.steps.append(Step(n.name, _kind(n, module), ms, self._demand(n, module)))
        return out

    def _region(self, n: Node, module: Region | ConvRegion) -> Any:
        args, _ = self.fetch_args_kwargs_from_env(n)
        out, steps = module.profile(*args) if isinstance(module, ConvRegion) else _program_steps(module, args)
        self.steps += [Step(f"{n.name}.{step.name}", step.kind, step.ms, step.demand) for step in steps]
        return out

    def _demand(self, n: Node, module: nn.Module | None) -> Demand:
        args, _ = self.fetch_args_kwargs_from_env(n)
        if n.target is _packed_linear:
            return linear_demand(find(int(args[1])), args[0])
        if isinstance(module, FusedConv2d | FusedConv8 | FusedConvPool):
            return demand_of(module, args[0].shape, len(args) > 1 and args[1] is not None)
        return Demand()


def _kind(n: Node, module: nn.Module | None) -> str:
    if module is not None:
        return "conv" if isinstance(module, FusedConv2d | FusedConv8 | FusedConvPool) else type(module).__name__
    return "linear" if n.target is _packed_linear else getattr(n.target, "__name__", str(n.target)).split(".")[0]


def _program_steps(region: Region, inputs: Sequence[Tensor]) -> tuple[Any, list[Step]]:
    """The instructions of a native program, numbered."""
    out, times = region.profile(*inputs)
    values = region.signature.bind(tuple(inputs))
    steps = []
    for number, ((kind, ms), need) in enumerate(zip(times, region.demands, strict=True)):
        steps.append(Step(str(number), kind, ms, Demand(need.kernel, *need.at(values))))
    return out, steps


def linear_demand(packed: PackedWeight | None, x: Tensor, shape: tuple[int, int] | None = None) -> Demand:
    """Of a linear layer on x (..., in), packed, or dense (None) of a shape (out, in), in float32."""
    rows = x.numel() // max(1, x.shape[-1])
    out, width = packed.shape if packed is not None else shape or (0, 0)
    ends = 4.0 * rows * (out + width)
    if packed is None:
        return Demand("dense", 2.0 * out * width * rows, 4.0 * out * width + ends)
    return Demand(packed.kernel, 2.0 * packed.nnz * rows, packed.nbytes + ends)


def _layer_steps(run: Any, example: Example) -> list[Step]:
    """Module by module, the innermost ones; what lies between them is the step "between"."""
    assert isinstance(run, nn.Module)
    ours = (SparseLinear, SparseConv2d)
    inside = {id(m) for outer in run.modules() if isinstance(outer, ours) for m in outer.modules() if m is not outer}
    leaves = [
        (name, m)
        for name, m in run.named_modules()
        if id(m) not in inside and (isinstance(m, ours) or not any(True for _ in m.children()))
    ]
    steps: list[Step] = []
    with ExitStack() as stack:
        for name, module in leaves:
            _watch(name or type(run).__name__, module, steps, stack)
        whole = _milliseconds(lambda: run(*example[0], **example[1]))
    return [*steps, Step("between the modules", "between", max(0.0, whole - sum(step.ms for step in steps)))]


def _watch(name: str, module: nn.Module, steps: list[Step], stack: ExitStack) -> None:
    begun: list[float] = []

    def before(*_: Any) -> None:
        begun.append(time.perf_counter())

    def after(_: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        ms = (time.perf_counter() - begun.pop()) * 1e3
        steps.append(Step(name, _module_kind(module), ms, _module_demand(module, args)))

    for hook in (module.register_forward_pre_hook(before), module.register_forward_hook(after)):
        stack.callback(hook.remove)


def _module_kind(module: nn.Module) -> str:
    kinds: dict[type[nn.Module], str] = {
        SparseLinear: "linear", nn.Linear: "linear", SparseConv2d: "conv", nn.Conv2d: "conv"
    }  # fmt: skip
    return kinds.get(type(module), type(module).__name__)


def _module_demand(module: nn.Module, args: tuple[Any, ...]) -> Demand:
    x = args[0] if args else None
    if not isinstance(x, Tensor):
        return Demand()
    if isinstance(module, SparseLinear):
        return linear_demand(module.plan.at(x.numel() // max(1, x.shape[-1])), x, module.plan.site.shape)
    if isinstance(module, nn.Linear):
        return linear_demand(None, x, (module.out_features, module.in_features))
    if isinstance(module, SparseConv2d) and x.dim() == 4:
        packed = module.plan.at((x.shape[0], x.shape[2], x.shape[3]))
        if packed is None:
            return Demand("dense")
        kind = FusedConv8 if isinstance(packed, PackedConv8) else FusedConv2d
        return demand_of(kind(packed, None, "none"), x.shape, False)  # type: ignore[arg-type]
    return Demand()
