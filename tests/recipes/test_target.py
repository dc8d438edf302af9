"""A speed-up that is asked for is reached, spent where it costs least, or refused; on a machine of made-up times."""

import copy
import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rarefy
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.site import Site
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.sensitivity import interpolated
from rarefy.recipes import target, target_times
from rarefy.recipes.target import WHOLE
from rarefy.recipes.target_curve import Curve, corrected
from rarefy.recipes.target_job import LEAST_DENSITY
from rarefy.recipes.target_losses import Losses
from rarefy.recipes.target_search import LeastLoss
from rarefy.recipes.target_times import Speed, trial

REST = 2.0  # ms of the model beyond its layers, on the made-up machine
IN_CONTEXT = 2.3  # what a layer takes inside the model over what it takes alone: the search has to find this out


def layer_ms(weight: Tensor, density: float | None = None) -> float:
    """Dense time, or the time at the density of the weight's own zeros."""
    full = weight.numel() * 1e-3
    share = float((weight != 0).float().mean()) if density is None else density
    return min(full, 0.05 * full + 0.9 * share * full)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Times are computed from the zeros, and counted."""
    counts = {"measured": 0}

    def alone(weight: Tensor, bias: Any, tokens: int, names: Any = None, **_: Any) -> dict[str, float]:
        return {"dense": weight.numel() * 1e-3, **dict.fromkeys(names, layer_ms(weight))}

    def whole(sparse: nn.Module, dense: nn.Module, inputs: Any, precision: Any = None) -> Speed:
        counts["measured"] += 1
        ms = [
            REST + IN_CONTEXT * sum(layer_ms(m.weight) for m in model.modules() if isinstance(m, nn.Linear))
            for model in (dense, sparse)
        ]
        return Speed(ms[0], ms[1], ms[0] / ms[1])

    monkeypatch.setattr(target_times, "time_layer", alone)
    monkeypatch.setattr(target, "measured_speed", whole)
    return counts


def network() -> nn.Sequential:
    """Of three layers like each other the middle one's output is nearly ignored."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    return model


class Gated(nn.Module):
    """Two equal branches; what comes out of one counts a thousandth."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heard, self.unheard = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.heard(x) + 1e-3 * self.unheard(x)


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 64, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("asked", [1.3, 1.8, 2.5])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_the_asked_speed_up_is_reached(asked: float, method: str, machine: dict[str, int]) -> None:
    model = network()
    report = rarefy.prune(model, method, target_speedup=asked, data=batches())
    assert report.target is not None
    assert report.target["achieved"] == pytest.approx(asked, rel=0.05)
    now = target.measured_speed(model, network(), None)
    assert now.ratio == pytest.approx(report.target["achieved"])
    assert report.method == method and report.allocation == "latency"
    assert f"{asked:g}x was asked" in str(report)


@pytest.mark.parametrize("allocation", ["uniform", "erk"])
def test_an_allocation_of_zeros_is_taken_to_the_same_speed(allocation: str, machine: dict[str, int]) -> None:
    report = rarefy.prune(
        network(), "magnitude", target_speedup=1.8, example_inputs=batches()[0], allocation=allocation
    )
    assert report.target is not None and report.target["achieved"] == pytest.approx(1.8, rel=0.05)
    if allocation == "uniform":
        assert len({round(s.asked, 6) for s in report.sites}) == 1


def test_zeros_go_where_they_cost_the_output_least(machine: dict[str, int]) -> None:
    model = Gated()
    before = copy.deepcopy(model)
    report = rarefy.prune(model, "magnitude", target_speedup=1.4, data=batches())
    share = {s.name: s.sparsity for s in report.sites}
    assert share["unheard"] > 0.5 > share.get("heard", 0.0)
    uniform = copy.deepcopy(before)
    rarefy.prune(uniform, "magnitude", target_speedup=1.4, data=batches(), allocation="uniform")
    x = batches()[0]
    with torch.no_grad():
        errors = [float((m(x) - before(x)).square().mean()) for m in (model, uniform)]
    assert errors[0] < 0.1 * errors[1]  # an allocation that ignores the errors fails here


def test_a_layer_that_needs_no_zeros_is_left_alone_and_named(machine: dict[str, int]) -> None:
    model = Gated()
    heard = model.heard.weight.detach().clone()
    report = rarefy.prune(model, "magnitude", target_speedup=1.2, data=batches())
    assert report.skipped == {"heard": WHOLE}
    assert torch.equal(model.heard.weight, heard)


def test_an_unreachable_target_names_the_best_and_changes_nothing(machine: dict[str, int]) -> None:
    model = network()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(SparsityError, match=r"40x cannot be reached here: .* model is ([\d.]+)x faster") as said:
        rarefy.prune(model, "magnitude", target_speedup=40.0, data=batches())
    best = float(str(said.value).split("the model is ")[1].split("x")[0])
    dense = REST + IN_CONTEXT * 3 * 0.95 * 64 * 64e-3
    least = REST + IN_CONTEXT * 3 * (0.05 + 0.9 * LEAST_DENSITY) * 64 * 64e-3
    assert best == pytest.approx(dense / least, rel=0.02)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_a_target_that_needs_no_zeros_says_so(machine: dict[str, int]) -> None:
    with pytest.raises(SparsityError, match="needs no zeros"):
        rarefy.prune(network(), "magnitude", target_speedup=0.9, data=batches())


def test_what_cannot_be_asked(machine: dict[str, int]) -> None:
    with pytest.raises(SparsityError, match="exclude each other"):
        rarefy.prune(network(), "magnitude", target_speedup=2.0, sparsity=0.5, data=batches())
    with pytest.raises(SparsityError, match="not positive"):
        rarefy.prune(network(), "magnitude", target_speedup=0.0, data=batches())
    with pytest.raises(DataError, match="example_inputs"):
        rarefy.prune(network(), "magnitude", target_speedup=2.0)
    with pytest.raises(SparsityError, match="OWL"):
        rarefy.prune(network(), "magnitude", target_speedup=2.0, data=batches(), allocation="owl")


def test_a_failure_half_way_puts_every_weight_back(machine: dict[str, int]) -> None:
    model = network()
    state = copy.deepcopy(model.state_dict())

    def fail(site: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rarefy.prune(model, "wanda", target_speedup=2.5, data=batches(), progress=fail)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("pattern", ["2:4", "2:4+", "t2:4", "1:2:4"])
def test_with_a_fixed_pattern_layers_are_chosen_whole_or_not(pattern: str, machine: dict[str, int]) -> None:
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(12))).eval()
    report = rarefy.prune(model, "magnitude", target_speedup=1.25, data=batches(), pattern=pattern)
    assert report.target is not None and report.target["achieved"] == pytest.approx(1.25, rel=0.05)
    assert report.pattern == pattern
    assert 0 < len(report.sites) < 12
    assert all(s.sparsity == 0.5 for s in report.sites)
    assert set(report.skipped.values()) == {WHOLE}


def test_names_that_end_alike_are_told_apart(machine: dict[str, int]) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), nn.Linear(64, 64)).eval()
    report = rarefy.prune(model, "magnitude", target_speedup=1.39, data=batches(), pattern="2:4")
    for name in ("0.0", "0.1", "1"):
        whole = bool((model.get_submodule(name).weight != 0).all())
        assert whole == (name in report.skipped)


def test_trials_stop_when_the_asked_is_met(machine: dict[str, int]) -> None:
    report = rarefy.prune(network(), "magnitude", target_speedup=1.8, data=batches())
    assert report.target is not None and report.target["trials"] <= 4
    assert machine["measured"] <= 7  # the dense model, the trials, what the method made, twice


def test_layers_are_weighed_by_how_far_their_errors_reach() -> None:
    from rarefy.core.site import find_sites
    from rarefy.pruning.resolve import resolve_method

    model = Gated()
    _, method = resolve_method("magnitude", {})
    sites, _ = find_sites(model)
    losses = Losses(model, method, method.pattern, sites, batches())
    assert losses.reach["heard"] / losses.reach["unheard"] == pytest.approx(1e6, rel=0.5)
    assert 0.0 == losses.of("heard", 1.0) < losses.of("heard", 0.5) < losses.of("heard", 0.1)
    blind = Losses(model, method, method.pattern, sites, [])
    assert set(blind.reach.values()) == {1.0}
    assert blind.of("heard", 0.3) > 0.0


def test_the_search_is_no_worse_than_where_it_began_or_than_even_zeros(machine: dict[str, int]) -> None:
    from rarefy.core.site import find_sites
    from rarefy.pruning.resolve import resolve_method

    model = network()
    _, method = resolve_method("magnitude", {})
    sites, _ = find_sites(model)
    losses = Losses(model, method, method.pattern, sites, batches())
    options = {site.name: [(d / 20, layer_ms(site.parameter, d / 20)) for d in range(1, 21)] for site in sites}
    budget = 0.4 * sum(layer_ms(site.parameter) for site in sites)

    def error(search: LeastLoss) -> float:
        densities = search(budget)
        assert densities is not None
        assert sum(dict(options[name])[d] for name, d in densities.items()) <= budget
        return losses.model_error(model, sites, densities)

    state = copy.deepcopy(model.state_dict())
    begun = [error(LeastLoss(model, sites, options, losses, steps=0)), error(LeastLoss(model, sites, options, losses))]
    assert begun[1] <= begun[0]
    best = dict.fromkeys(options, 0.3)
    rival = LeastLoss(model, sites, options, losses, [lambda budget: best], steps=0)
    assert error(rival) <= losses.model_error(model, sites, best)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert LeastLoss(model, sites, options, losses)(0.001) is None


def test_the_curve_is_followed_where_layers_take_longer_inside_the_model() -> None:
    def whole(layers: float) -> float:
        return 5.0 + 2.1 * layers - (3.0 if layers < 4 else 0.0)  # and a jump, where another way to run wins

    for wanted in (6.0, 8.0, 14.0, 20.0):
        curve = Curve([(10.0, whole(10.0))])
        for _ in range(25):
            layers = curve.layers_for(wanted)
            curve.add(layers, whole(layers))
        assert min(abs(t - wanted) for _, t in curve.points) < 0.02 * wanted
    assert Curve([(1.0, 2.0)]).slope() == 1.0
    assert Curve([(1.0, 2.0), (3.0, 6.0)]).slope() == 2.0


def test_stitched_models_have_the_methods_own_error() -> None:
    from rarefy.core.site import find_sites
    from rarefy.pruning.resolve import resolve_method

    model = Gated()
    _, method = resolve_method("magnitude", {})
    sites, _ = find_sites(model)
    losses = Losses(model, method, method.pattern, sites, batches(), (0.5, 0.25))
    assert losses.model_error(model, sites, {"heard": 1.0, "unheard": 1.0}) < 1e-4  # bfloat16 is not used for these
    twin = copy.deepcopy(model)
    rarefy.prune(twin, "magnitude", sparsity=0.5, measure=False)
    with torch.no_grad():
        pairs = [(twin(x), model(x)) for x in batches()]
    expected = sum(float((a - b).square().sum()) for a, b in pairs) / sum(float(b.square().sum()) for _, b in pairs)
    found = losses.model_error(model, sites, {"heard": 0.5, "unheard": 0.5})
    assert found == pytest.approx(expected, rel=0.2)  # on some of the batches, with rounded weights
    between = losses.model_error(model, sites, {"heard": 0.3, "unheard": 0.5})
    assert found < between < losses.model_error(model, sites, {"heard": 0.25, "unheard": 0.5})


@pytest.mark.parametrize("density", [0.02, 0.03, 0.1, 0.2, 0.5, 0.8, 1.0])
def test_errors_between_the_solved_densities_lie_between_theirs(density: float) -> None:
    errors = {0.6: 0.01, 0.25: 0.2, 0.03: 0.9}
    found = interpolated(errors, density)
    around = [0.0, *(e for d, e in sorted(errors.items(), reverse=True))]
    assert 0.0 <= found <= 0.9
    assert found == pytest.approx(errors[density]) if density in errors else min(around) <= found <= max(around)
    assert interpolated(errors, 1.0) == 0.0
    assert interpolated({0.5: 0.3}, 0.75) == pytest.approx(0.3 * 0.25)


def test_the_command_line_s_job_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from rarefy.pruning import PruneReport
    from rarefy.recipes import compress
    from rarefy.recipes.compress_job import Job
    from rarefy.recipes.stages import Silent
    from rarefy.recipes.task import batch_task

    asked: dict[str, Any] = {}
    report = PruneReport("wanda", "rowwise", "latency", (), {}, 0.0)
    monkeypatch.setattr(compress, "prune", lambda model, method, **given: asked.update(given) or report)
    task = batch_task(network(), batches())
    compress._prune(task, Job(sparsity=None, target_speedup=2.5), Silent())
    assert (asked["target_speedup"], asked["sparsity"]) == (2.5, None)
    assert asked["example_inputs"] is task.examples[0]


def slower_when_real(model: nn.Module, factors: list[float]) -> Any:
    """A machine on which what the method makes takes other times than copies pruned by magnitude, round after round."""
    taken = iter(factors)

    def speed(sparse: nn.Module, dense: nn.Module, inputs: Any) -> Speed:
        factor = next(taken) if sparse is model and sparse is not dense else 1.0
        layers = [sum(layer_ms(m.weight) for m in net.modules() if isinstance(m, nn.Linear)) for net in (dense, sparse)]
        ms = [REST + layers[0], (REST + layers[1]) * factor]
        return Speed(ms[0], ms[1], ms[0] / ms[1])

    return speed


@pytest.mark.parametrize("factors", [[1.15] * 10, [0.85] * 10, [1.2, 1.0, 1.1, 1.08, 1.09] + [1.1] * 5])
def test_what_the_method_made_is_measured_and_the_budget_corrected(
    factors: list[float], machine: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = []
    passed = importlib.import_module("rarefy.pruning.work")
    walk = passed.walk
    monkeypatch.setattr(passed, "walk", lambda *given: walks.append(1) or walk(*given))
    model = network()
    report = rarefy.prune(
        model, "sparsegpt", target_speedup=1.8, data=batches(), speed=slower_when_real(model, list(factors))
    )
    reached = report.target
    assert reached is not None and reached["achieved"] == pytest.approx(1.8, rel=0.05)
    assert reached["solves"] == len(reached["rounds"]) > 1
    assert reached["rounds"][0]["speedup"] != pytest.approx(1.8, rel=0.05)  # what a single pass would have left
    assert reached["correction"] != 1.0
    assert len(walks) == 1  # the evidence is reused
    for site in report.sites:
        zeros = int((model.get_submodule(site.name).weight == 0).sum())
        assert zeros == site.zeros and site.error is not None
        assert site.asked == pytest.approx(site.sparsity, abs=2e-3)


def test_a_line_through_noisy_measurements_finds_the_budget() -> None:
    noise = [1.06, 0.95, 1.03, 0.97, 1.05, 0.96, 1.0, 1.02, 0.98, 1.0]
    layers, points = 10.0, []
    for factor in noise:
        points.append((layers, factor * (4.0 + 1.5 * layers)))
        layers = corrected(points, 13.0, slope=1.0)
    assert layers == pytest.approx(6.0, rel=0.04)
    exact = [(10.0, 19.0), (5.0, 11.5)]
    assert corrected(exact, 13.0, slope=1.5) == pytest.approx(6.0)
    assert corrected([(10.0, 19.0)], 13.0, slope=2.0) == pytest.approx(7.0)


def test_layers_are_never_slower_with_more_zeros_and_disturbed_times_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rarefy.core.site import find_sites
    from rarefy.patterns.unstructured import Layerwise

    def alone(weight: Tensor, bias: Any, tokens: int, names: Any = None, **_: Any) -> dict[str, float]:
        density = round(float((weight != 0).float().mean()), 2)
        if density in (0.02, 0.2):
            return {"dense": 30.0, **dict.fromkeys(names, 12.0)}  # something else had the processor
        return {"dense": 1.0, **dict.fromkeys(names, 0.5 if density == 0.1 else density)}

    monkeypatch.setattr(target_times, "time_layer", alone)
    (site,), _ = find_sites(nn.Sequential(nn.Linear(64, 64)))
    times = target_times.LayerTimes(Layerwise(), {"0": 32})
    assert times(site, 0.02) == times(site, 0.03) == pytest.approx(0.03)
    assert times(site, 0.2) == pytest.approx((times(site, 0.15) + times(site, 0.25)) / 2, rel=0.05)
    found = [times(site, d / 100) for d in range(2, 101)]
    assert found == sorted(found) and found[-1] == 1.0
    assert times(site, 0.1) == pytest.approx(times(site, 0.12), rel=0.05)  # the 0.5 of 0.1 cannot be


def test_a_disturbed_measurement_is_taken_again_and_the_calmest_counts() -> None:
    taken = iter(
        [(20.0, 2.0), (60.0, 5.0), (19.0, 2.1), (50.0, 1.0), (30.0, 3.0), (40.0, 1.0), (31.0, 1.0), (35.0, 1.0)]
    )

    def speed(*_: Any) -> Speed:
        dense, ratio = next(taken)
        return Speed(dense, dense / ratio, ratio)

    calm, model = target_times.Calm(speed), network()
    assert calm(model, model, None).ratio == 2.0
    assert calm(model, model, None).ratio == 2.1  # after one that was three times as slow
    assert calm(model, model, None).ratio == 3.0  # the calmest of five, all of them disturbed
    assert next(taken, None) is None


def test_the_nearest_round_stays_where_no_round_comes_near(machine: dict[str, int]) -> None:
    model = network()
    with pytest.warns(UserWarning, match=r"was measured after 10 rounds, 1.8x was asked"):
        report = rarefy.prune(
            model, "magnitude", target_speedup=1.8, data=batches(), speed=slower_when_real(model, [2.5, 0.3] * 5)
        )
    assert report.target is not None
    ratios = [r["speedup"] for r in report.target["rounds"]]
    assert report.target["achieved"] == min(ratios, key=lambda r: abs(r - 1.8))
    zeros = {s.name: s.zeros for s in report.sites}
    assert zeros == {name: int((model.get_submodule(name).weight == 0).sum()) for name in zeros}


def test_an_unreachable_target_is_refused_after_the_method_too(machine: dict[str, int]) -> None:
    model = network()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(SparsityError, match="the best reachable"):
        rarefy.prune(model, "magnitude", target_speedup=3.0, data=batches(), speed=slower_when_real(model, [4.0] * 10))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("groups", [1, 4])
def test_a_layer_solved_again_is_what_a_new_pass_makes_of_it(groups: int) -> None:
    from dataclasses import replace

    from rarefy.core.site import find_sites
    from rarefy.pruning import prune
    from rarefy.pruning.resolve import resolve_method
    from rarefy.recipes.target_evidence import Remembering

    def conv() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(8, 16, 3, groups=groups))

    data = [torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    _, method = resolve_method("sparsegpt", {})
    remembering = Remembering(method.solver)
    model, fresh = conv(), conv()
    (row,) = prune(model, replace(method, solver=remembering), sparsity=0.5, data=data).sites
    (site,), _ = find_sites(model)
    assert remembering.knows(site)
    model.load_state_dict(conv().state_dict())
    again = remembering.again(site, 0.25, row)
    (wanted,) = prune(fresh, method, sparsity=0.75, data=data).sites
    torch.testing.assert_close(model[0].weight, fresh[0].weight)
    assert (again.zeros, again.asked) == (wanted.zeros, wanted.asked)
    if groups == 1:
        assert again.error == pytest.approx(wanted.error)


def test_the_types_of_the_compiled_model_are_those_that_are_timed(
    machine: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rarefy.engine.precision import Precision

    asked = []
    timed, measured = target_times.time_layer, target.measured_speed
    monkeypatch.setattr(
        target_times,
        "time_layer",
        lambda *given, precision, **more: asked.append(precision) or timed(*given, **more),
    )
    monkeypatch.setattr(target, "measured_speed", lambda *given, precision: asked.append(precision) or measured(*given))
    report = rarefy.prune(
        network(), "magnitude", target_speedup=1.8, data=batches(), weights="int8", activations="int8"
    )
    assert report.target is not None and report.target["weights"] == "int8"
    assert set(asked) == {Precision("int8", "int8")}
    with pytest.raises(SparsityError, match="target_speedup"):
        rarefy.prune(network(), "magnitude", sparsity=0.5, weights="int8")


def test_a_trial_in_which_every_layer_stays_dense_times_the_model_as_it_is() -> None:
    """What is left where no density is faster than dense, as without native kernels."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    sites = [Site("0", (model[0],)), Site("2", (model[2],))]

    def speed(sparse: nn.Module, dense: nn.Module, inputs: object) -> Speed:
        assert sparse is not dense and all(map(torch.equal, sparse.parameters(), dense.parameters()))
        return Speed(2.0, 1.0, 2.0)

    given = (dict.fromkeys(("0", "2"), 1.0), Layerwise(), (), torch.randn(2, 8), speed)
    assert trial(model, sites, *given) == Speed(2.0, 1.0, 2.0)
