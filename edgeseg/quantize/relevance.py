"""What of the raw outputs the decoder looks at, so that noise where nothing is seen does not count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Logits outside decide nothing: 0.0003 and 0.993 as scores.
LOGITS = (-8.0, 5.0)


def relevant(
    roles: Sequence[str], reference: Sequence[np.ndarray], outputs: Sequence[np.ndarray], *, logits: bool = True
) -> list[np.ndarray]:
    """Outputs as they should be compared.

    Boxes and coefficients are read at cells where there may be an object: they are scaled by the square root of the cell's
    best score in the float network, so that squares add up weighted by it. Box logits become the distances that are made of
    them, since a softmax forgets most of what they say. Score logits become heights within ``LOGITS``: without the offset
    that all of them share, the signal is what tells places apart.

    Args:
        roles: role of each output.
        reference: the float network's outputs, (n, c, h, w) or (n, c, cells).
        outputs: the same outputs of any model; ``reference`` itself for the other side of the comparison.
        logits: boxes and scores are logits; else boxes are boxes and scores in 0..1.
    """
    scores = [_score(r, logits) for role, r in zip(roles, reference) if role == "score"]
    best = {s.shape[2:]: np.sqrt(s.max(1, keepdims=True)) for s in scores}
    found = []
    for role, a in zip(roles, outputs):
        if role == "score" and logits:
            a = np.clip(a, *LOGITS) - LOGITS[0]
        elif role == "box" and logits:
            a = _distances(a) * best[a.shape[2:]]
        elif role in ("box", "coeff"):
            a = a * best[a.shape[2:]]
        found.append(a)
    return found


def _distances(a: np.ndarray) -> np.ndarray:
    """(n, 4 * bins, h, w) logits -> (n, 4, h, w): expected bin of each side (Generalized Focal Loss, Li 2020).

    With one bin the logits are the distances.
    """
    n, c, h, w = a.shape
    bins = c // 4
    if bins == 1:
        return a
    logits = a.reshape(n, 4, bins, h, w)
    shares = np.exp(logits - logits.max(2, keepdims=True))
    weights = np.arange(bins, dtype=np.float32).reshape(1, 1, bins, 1, 1)
    found: np.ndarray = (shares * weights).sum(2) / shares.sum(2)
    return found


def _score(a: np.ndarray, logits: bool) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-np.clip(a, -60, 60))) if logits else np.clip(a, 0, 1)
    return found
