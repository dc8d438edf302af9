"""What the structure of a sparse net tells of how well it will do, without training it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rarefy.analysis.random_graphs import Structure
from rarefy.core.errors import DataError
from rarefy.core.registry import method

FEATURES = (
    "nodes", "edges", "depth", "sources", "sinks", "density",
    *(f"{kind}_{stat}" for kind in ("degree", "path", "eccentricity") for stat in ("mean", "variance", "min", "max")),
)  # fmt: skip


def structure_features(structure: Structure) -> tuple[float, ...]:
    """The numbers that FEATURES names: counts, and statistics of degrees, shortest paths and eccentricities.

    Paths and eccentricities are those of the largest connected part of the undirected graph; of a single vertex, 0.
    """
    import networkx

    graph = structure.graph().to_undirected()
    largest = graph.subgraph(max(networkx.connected_components(graph), key=len))
    degrees = [degree for _, degree in graph.degree]
    paths = [d for _, to in networkx.shortest_path_length(largest) for d in to.values() if d] or [0]
    reach = list(networkx.eccentricity(largest).values())
    pairs = structure.nodes * (structure.nodes - 1) / 2
    counts = [structure.nodes, len(structure.edges), structure.depth, len(structure.sources), len(structure.sinks)]
    spread = [stat(values) for values in (degrees, paths, reach) for stat in (np.mean, np.var, np.min, np.max)]
    return tuple(float(v) for v in (*counts, len(structure.edges) / pairs if pairs else 0.0, *spread))


@dataclass(frozen=True)
class Prediction:
    """How well performance is predicted. r2: over held-out structures; shuffled: the same with labels at random.

    importance: of each of FEATURES; forest: the fitted model, `forest.predict(rows of features)`.
    """

    r2: float
    shuffled: tuple[float, ...]
    importance: dict[str, float]
    forest: Any


@method(
    "sparse-structure-properties",
    role="study",
    source="Stier et al. 2021, arXiv:2107.12917, sections 3 to 5",
    protocols=("pattern",),
)
def predict_performance(
    structures: Sequence[Structure],
    performance: Sequence[float],
    *,
    shuffles: int = 20,
    folds: int = 5,
    trees: int = 100,
    seed: int = 0,
) -> Prediction:
    """A random forest from the properties of graphs to the performance of nets built on them, cross-validated.

    structures: of the nets (`random_graphs`, `graph_net`); performance: of each, after training. shuffles: how often
    the performances are dealt out at random, to see what the forest finds where there is nothing. Needs scikit-learn.
    """
    try:
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.model_selection import KFold, cross_val_predict
    except ImportError as error:
        raise DataError("predict_performance: needs scikit-learn; install it, e.g. rarefy[studies]") from error
    if len(structures) != len(performance) or len(structures) < 2 * folds:
        raise DataError(
            f"predict_performance: {len(structures)} structures, {len(performance)} performances, {folds} folds; give "
            "as many of both, at least two a fold"
        )
    rows = np.array([structure_features(s) for s in structures])
    values = np.array(performance, dtype=np.float64)

    def forest() -> Any:
        return RandomForestRegressor(trees, random_state=seed, n_jobs=1)

    def score(labels: Any) -> float:
        split = KFold(folds, shuffle=True, random_state=seed)
        found = cross_val_predict(forest(), rows, labels, cv=split)
        return 1.0 - float(((found - labels) ** 2).sum() / max(((labels - labels.mean()) ** 2).sum(), 1e-300))

    deal = np.random.default_rng(seed)
    shuffled = tuple(score(deal.permutation(values)) for _ in range(shuffles))
    whole = forest().fit(rows, values)
    importance = dict(zip(FEATURES, (float(v) for v in whole.feature_importances_), strict=True))
    return Prediction(score(values), shuffled, importance, whole)


@dataclass(frozen=True)
class Searched:
    """best: (structure, performance) of the nets that were trained; trained: how many; proposed: how many were not."""

    best: tuple[Structure, float]
    trained: int
    proposed: int


def search_structures(
    first: Sequence[Structure],
    evaluate: Callable[[Structure], float],
    *,
    prediction: Prediction | None = None,
    generations: int = 5,
    children: int = 10,
    keep: float = 0.3,
    seed: int = 0,
) -> Searched:
    """A genetic search over structures in which a prediction says which children are worth training.

    first: the first population, all trained with `evaluate` (larger is better). Each generation the better half has
    `children` children by `mutated`; with a prediction only the share `keep` of them that it likes most is trained.
    """
    chance = np.random.default_rng(seed)
    known = [(s, evaluate(s)) for s in first]
    trained, proposed = len(known), len(known)
    for _ in range(generations):
        known.sort(key=lambda entry: -entry[1])
        parents = known[: max(1, len(known) // 2)]
        born = [mutated(parents[int(chance.integers(len(parents)))][0], chance) for _ in range(children)]
        proposed += len(born)
        if prediction is not None:
            liked = prediction.forest.predict(np.array([structure_features(s) for s in born]))
            born = [born[i] for i in np.argsort(-liked)[: max(1, round(keep * len(born)))]]
        known = [*parents, *((s, evaluate(s)) for s in born)]
        trained += len(born)
    return Searched(max(known, key=lambda entry: entry[1]), trained, proposed)


def mutated(structure: Structure, chance: np.random.Generator) -> Structure:
    """The structure with one edge more, less or moved."""
    edges = set(structure.edges)
    free = [(a, b) for b in range(structure.nodes) for a in range(b) if (a, b) not in edges]
    kind = chance.integers(3)
    if edges and (kind != 0 or not free):
        edges.discard(sorted(edges)[int(chance.integers(len(edges)))])
    if free and kind != 1:
        edges.add(free[int(chance.integers(len(free)))])
    return Structure(structure.nodes, tuple(sorted(edges)))
