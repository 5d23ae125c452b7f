"""The forest behind the strategy of that name: scikit-learn (the extra `search`), asked without its ceremony."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernelwright.tuner.points import Indices


def chances(
    known: Indices,
    is_good: npt.NDArray[np.bool_],
    codes: npt.NDArray[np.int16],
    *,
    trees: int,
    seed: int,
) -> npt.NDArray[np.float64]:
    """Return for each point of a pool the share of trees, by weight of their leaves, that call it good.

    Args:
        known: the finished points.
        is_good: whether each of them is among the best.
        codes: of the pool, as in `PointPool`. Products and quotients of sizes as further features find the best of
            some spaces sooner and miss it in others, so there are none.
        trees: in the forest.
        seed: of the forest.
    """
    from sklearn.ensemble import RandomForestClassifier

    total = np.zeros(len(codes))
    if is_good.all() or not is_good.any():
        return total
    table = codes.astype(np.float32)
    forest = RandomForestClassifier(n_estimators=trees, random_state=seed, n_jobs=1).fit(table[known], is_good)
    for tree in forest.estimators_:  # as predict_proba, without a check of the pool for each tree
        counts = tree.tree_.value[:, 0, :]
        total += (counts[:, 1] / counts.sum(axis=1))[tree.tree_.apply(table)]
    return total / trees
