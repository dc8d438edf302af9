"""Grown weights under optimizers that count the steps of the whole tensor: each takes the steps of a fresh optimizer.

Adam corrects its moments for having started at zero by one step count for the whole tensor, so a weight that was grown
at step 5000 with zero moments would take a first step of (1 - beta1) / sqrt(1 - beta2) = 3.2 times the learning rate.
With t the step of the tensor and a the age of the weight, each optimizer is set right in one of three ways:

- Adam, AdamW (with amsgrad too), Adamax: ahead of the step the memory becomes c = (1 - beta^t) / (1 - beta^a) times
  that of the fresh optimizer, so that the division by 1 - beta^t inside leaves the fresh one; it stays so scaled.
- NAdam, RAdam, and SGD with dampening: ahead of the step the memory becomes what makes the fresh optimizer's step of
  the gradient that is there, and after the step it becomes the fresh memory.
- Adagrad with lr_decay and ASGD: the step is as long as the learning rate of the step count, so after it the change of
  the weight is stretched to that of the fresh one.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, optim

from rarefy.ops.moments import AdamMoments, correct_adam
from rarefy.training.fresh_job import OLD, Factors, Job, decay_of, put, steps_of
from rarefy.training.optimizers import group_of

_UNCOUNTED = (optim.RMSprop, optim.Adadelta, optim.Rprop, optim.Adagrad, optim.SGD)  # steps are counted but not used


_PART = 2**16
"""Weights corrected at a time: what is worked out for them in float64 stays in the cache."""

Finish = Callable[[], None]
Rule = Callable[[Job], tuple[Tensor, Finish | None]]


def rule_of(optimizer: optim.Optimizer, parameter: Tensor) -> Rule | None:
    """How grown weights of the parameter are corrected; None where nothing has to be, or no way is known."""
    memory, group = optimizer.state.get(parameter, {}), group_of(optimizer, parameter) or {}
    if isinstance(optimizer, optim.SGD):
        return _sgd if group.get("momentum") and group.get("dampening") and memory else None
    if "step" not in memory:
        return None
    if isinstance(optimizer, optim.Adagrad):
        return _adagrad if group.get("lr_decay") else None
    if isinstance(optimizer, optim.ASGD):
        return _asgd
    if "betas" not in group or "exp_avg" not in memory:
        return None
    if "exp_inf" in memory:
        return _adamax
    if "exp_avg_sq" not in memory:
        return None
    if "mu_product" in memory:
        return _nadam if isinstance(optimizer, optim.NAdam) else None
    return _radam if isinstance(optimizer, optim.RAdam) else _adam


def unknown(optimizer: optim.Optimizer, parameter: Tensor) -> bool:
    """Whether the optimizer counts steps of the parameter in a way that no rule is known for."""
    counts = "step" in optimizer.state.get(parameter, {})
    return counts and rule_of(optimizer, parameter) is None and not isinstance(optimizer, _UNCOUNTED)


def correct(optimizer: optim.Optimizer, parameter: Tensor, index: Tensor, age: Tensor) -> tuple[Tensor, list[Finish]]:
    """Ahead of a step; gives a mask of the weights that are young after it, and what has to be called after it.

    index: flat positions in the parameter; age: steps that each has taken since it was grown.
    """
    rule = rule_of(optimizer, parameter)
    if rule is None:
        return torch.zeros_like(age, dtype=torch.bool), []
    if rule is _adam and (quick := _native_adam(optimizer, parameter, index, age)) is not None:
        return quick, []
    parts = zip(index.split(_PART), age.split(_PART), strict=True)
    young, finish = zip(*(rule(Job(optimizer, parameter, *part)) for part in parts), strict=True)
    return torch.cat(young), [each for each in finish if each is not None]


def _native_adam(optimizer: optim.Optimizer, parameter: Tensor, index: Tensor, age: Tensor) -> Tensor | None:
    """What `_adam` does, in one pass; None where that is not possible."""
    memory, group = optimizer.state[parameter], group_of(optimizer, parameter) or {}
    first, second = map(float, group["betas"])
    most = memory.get("max_exp_avg_sq")
    moments = AdamMoments(
        memory["exp_avg"],
        memory["exp_avg_sq"],
        most,
        (first, second),
        steps_of(memory) + 1,
        decay_of(optimizer, group),
        bool(group.get("maximize")),
    )
    assert parameter.grad is not None
    return correct_adam(parameter.detach(), parameter.grad, index, age, moments, OLD)


def _moment(job: Job, name: str, beta: float, push: Tensor) -> Tensor:
    """Scales a moment ahead of a step that adds `push` to it; gives which entries are young after it."""
    if beta <= 0.0:
        return torch.zeros_like(job.age, dtype=torch.bool)
    by = Factors(job, beta)
    job.store(name, by.scale * job.held(name) + by.push * push)
    return by.young


def _adam(job: Job) -> tuple[Tensor, None]:
    grad, (first, second) = job.gradient(), map(float, job.group["betas"])
    if "max_exp_avg_sq" in job.memory and second > 0.0:
        job.store("max_exp_avg_sq", Factors(job, second).scale * job.held("max_exp_avg_sq"))
    young = _moment(job, "exp_avg", first, grad)
    return young | _moment(job, "exp_avg_sq", second, grad * grad), None


def _adamax(job: Job) -> tuple[Tensor, None]:
    return _moment(job, "exp_avg", float(job.group["betas"][0]), job.gradient()), None


def _renewed(job: Job, names: tuple[str, ...], fresh: tuple[Tensor, ...], young: Tensor) -> tuple[Tensor, Finish]:
    """The memory becomes the fresh one after the step."""

    def finish() -> None:
        for name, value in zip(names, fresh, strict=True):
            job.store(name, value)

    return young, finish


def _fresh_moments(job: Job, first: float, second: float) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient, and the fresh moments after the step."""
    grad = job.gradient()
    moment = first * job.held("exp_avg") + (1.0 - first) * grad
    return grad, moment, second * job.held("exp_avg_sq") + (1.0 - second) * grad * grad


def _aim(job: Job, name: str, beta: float, push: Tensor, value: Tensor) -> None:
    """Stores what becomes `value` when the step adds `push`."""
    if beta > 0.0:
        job.store(name, (value - (1.0 - beta) * push) / beta)


def _nadam(job: Job) -> tuple[Tensor, Finish]:
    """The step is (A g + B m) / sqrt(v / (1 - beta2^t)), A and B of the momentum schedule: m and v are solved for."""
    first, second = map(float, job.group["betas"])
    grad, moment, square = _fresh_moments(job, first, second)
    decay = float(job.group["momentum_decay"])
    mu, following = (first * (1.0 - 0.5 * 0.96 ** (decay * (job.t + more))) for more in (0, 1))
    product = float(job.memory["mu_product"]) * mu
    of_grad, of_moment = (1.0 - mu) / (1.0 - product), following / (1.0 - product * following)
    mine, next_mine = (first * (1.0 - 0.5 * 0.96 ** (decay * (job.age + more))) for more in (0, 1))
    table = _products(first, decay)
    mine_product = table[(job.age.long() - 1).clamp_max(len(table) - 1)]
    mine_grad, mine_moment = (1.0 - mine) / (1.0 - mine_product), next_mine / (1.0 - mine_product * next_mine)
    if first > 0.0:
        aimed = ((mine_grad - of_grad) * grad + mine_moment * moment) / of_moment
        _aim(job, "exp_avg", first, grad, aimed)
    _aim(job, "exp_avg_sq", second, grad * grad, square * (1.0 - second**job.t) / (1.0 - second**job.age))
    # The schedule of the momentum is in 0.96^(decay * age), which lives longest.
    schedule = 0.96 ** (decay * job.age) - 0.96 ** (decay * job.t)
    young = (second**job.age > OLD) | (first**job.age > OLD) | (schedule > OLD)
    return _renewed(job, ("exp_avg", "exp_avg_sq"), (moment, square), young)


@cache
def _products(first: float, decay: float) -> Tensor:
    """mu_1 * ... * mu_a for a = 1, 2, ... until it is as good as 0."""
    length = 1 if first <= 0.0 else min(100_000, 1 + math.ceil(math.log(1e-17) / math.log(first)))
    steps = torch.arange(1, length + 1, dtype=torch.float64)
    return (first * (1.0 - 0.5 * 0.96 ** (decay * steps))).cumprod(0)


def _radam(job: Job) -> tuple[Tensor, Finish]:
    """The step is m / (1 - beta1^t) * k(t, v), k being 1 in the first steps: m is scaled by the fresh k over that k."""
    first, second = map(float, job.group["betas"])
    grad, moment, square = _fresh_moments(job, first, second)
    aimed = square * (1.0 - second**job.t) / (1.0 - second**job.age)
    eps = float(job.group["eps"])
    k = _rectified(torch.full_like(job.age, job.t), aimed, second, eps)
    mine = _rectified(job.age, square, second, eps)
    scaled = moment * (1.0 - first**job.t) / (1.0 - first**job.age) * (mine / k).nan_to_num(1.0, 0.0, 0.0)
    _aim(job, "exp_avg", first, grad, scaled)
    _aim(job, "exp_avg_sq", second, grad * grad, aimed)
    young = (first**job.age > OLD) | (second**job.age > OLD)
    return _renewed(job, ("exp_avg", "exp_avg_sq"), (moment, square), young)


def _rectified(step: Tensor, square: Tensor, beta: float, eps: float) -> Tensor:
    """k of RAdam: r * sqrt(1 - beta^step) / (sqrt(v) + eps), or 1 where the variance is not tractable (rho <= 5)."""
    whole, most = 1.0 - beta**step, 2.0 / (1.0 - beta) - 1.0
    rho = most - 2.0 * step * (1.0 - whole) / whole
    inside = (rho - 4.0) * (rho - 2.0) * most / ((most - 4.0) * (most - 2.0) * rho)
    return torch.where(rho > 5.0, inside.clamp_min(0.0).sqrt() * whole.sqrt() / (square.sqrt() + eps), 1.0)


def _sgd(job: Job) -> tuple[Tensor, Finish | None]:
    """The first momentum of a weight is its gradient, without the dampening."""
    if job.memory.get("momentum_buffer") is None:
        return torch.zeros_like(job.age, dtype=torch.bool), None
    new = job.before == 0
    held = job.memory["momentum_buffer"].reshape(-1)[job.index].double()
    first = float(job.group["dampening"]) / float(job.group["momentum"]) * job.gradient()
    job.store("momentum_buffer", torch.where(new, first, held))
    return torch.zeros_like(new), None


def _stretched(job: Job, ratio: Tensor) -> tuple[Tensor, Finish]:
    """The change of the weight by the step becomes `ratio` times as long."""
    before = job.parameter.detach().reshape(-1)[job.index].double()

    def finish() -> None:
        after = job.parameter.detach()
        put(after, job.index, before + ratio * (after.reshape(-1)[job.index].double() - before))

    return (ratio - 1.0).abs() > OLD, finish


def _adagrad(job: Job) -> tuple[Tensor, Finish]:
    decay = float(job.group["lr_decay"])
    return _stretched(job, (1.0 + (job.t - 1) * decay) / (1.0 + job.before * decay))


def _asgd(job: Job) -> tuple[Tensor, Finish]:
    """eta = lr / (1 + lambd * lr * steps)^alpha; the average `ax`, which no step looks at, is left as it is."""
    lr, lambd, alpha = (float(job.group[name]) for name in ("lr", "lambd", "alpha"))
    fresh = lr / (1.0 + lambd * lr * job.before) ** alpha
    young, finish = _stretched(job, fresh / max(float(job.memory["eta"]), 1e-300))
    return torch.ones_like(young), finish
