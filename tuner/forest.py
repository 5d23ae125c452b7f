"""The forest behind the strategy of that name: scikit-learn (the extra `search`), asked without its ceremony."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_SPLIT_FEATURES = 0.5
"""Share of the features that each split looks at: most are pairs of which few matter."""


def chances(
    known: npt.NDArray[np.float32],
    is_good: npt.NDArray[np.bool_],
    pool: npt.NDArray[np.float32],
    *,
    trees: int,
    seed: int,
) -> npt.NDArray[np.float64]:
    """Return for each point of the pool the share of trees, by weight of their leaves, that call it good.

    Args:
        known: features of the finished points, `[points, features]`.
        is_good: whether each of them is among the best.
        pool: features of the points in question.
        trees: in the forest.
        seed: of the forest.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    total = np.zeros(len(pool))
    if is_good.all() or not is_good.any():
        return total
    forest = ExtraTreesClassifier(n_estimators=trees, max_features=_SPLIT_FEATURES, random_state=seed, n_jobs=1)
    forest.fit(known, is_good)
    for tree in forest.estimators_:  # as predict_proba, without a check of the pool for each tree
        counts = tree.tree_.value[:, 0, :]
        total += (counts[:, 1] / counts.sum(axis=1))[tree.tree_.apply(pool)]
    return total / trees
