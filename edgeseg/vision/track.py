"""Ids that stay with objects from frame to frame: boxes followed in the manner of ByteTrack.

Own because every kept library that does it (trackers, supervision, norfair) brings SciPy and Matplotlib to a board. After
Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box" (2022).
"""

from __future__ import annotations

import numpy as np

from edgeseg.vision.detections import Detections

# Overlaps (IoU) below which a track and a detection are not the same, of the three rounds: ByteTrack's.
_SURE, _FAINT, _FRESH = 0.2, 0.5, 0.3
# Standard deviations as parts of a box's sides, of places and of their changes per frame (Wojke et al., DeepSORT, 2017).
_PLACE, _PACE = 1 / 20, 1 / 160


class Tracker:
    """Gives detections of consecutive frames the ids of the objects that they are.

    Each frame: every track is moved on by its Kalman filter; detections of at least ``high`` are assigned to tracks, then
    the fainter ones to tracks of the frame before that are still without. What remains of the sure ones begins tracks.
    Classes never mix. The same frames give the same ids.

    Args:
        high: score from which a detection may begin a track, 0..1. Fainter ones only carry tracks on: detect from 0.1.
        buffer: frames for which an object may be missing and still keep its id.
    """

    def __init__(self, high: float = 0.25, buffer: int = 30) -> None:
        self.high, self.buffer = high, buffer
        self._last = 0
        self.reset()

    def reset(self) -> None:
        """Forget all tracks, for a new scene. Ids go on: none is given twice."""
        self._first = True
        self._ids = np.zeros(0, np.int64)  # 0: seen once so far
        self._classes = np.zeros(0, np.int32)
        self._missed = np.zeros(0, np.int64)
        self._states = np.zeros((0, 5, 4))

    def update(self, detections: Detections) -> np.ndarray:
        """The ids of one frame's detections.

        Args:
            detections: of the frame after that of the last call.

        Returns:
            (n,) int64: ids from 1 in order of appearance; 0 where there is no track, or where one has just begun: an
            object gets its id when it is seen in a second frame (in the first frame of all, at once).
        """
        boxes, classes = _centred(detections.boxes), detections.classes
        high = detections.scores >= self.high
        _predict(self._states, self._missed > 0)
        known = self._ids > 0
        track = np.full(len(boxes), -1)  # of each detection
        idle = np.ones(len(known), bool)
        rounds = (known, high, _SURE), (known & (self._missed == 0), ~high, _FAINT), (~known, high, _FRESH)
        for tracks, wanted, least in rounds:
            rows, columns = np.flatnonzero(tracks & idle), np.flatnonzero(wanted & (track < 0))
            gain = _overlap(self._states[rows, 0], boxes[columns]) - least
            gain[self._classes[rows, None] != classes[columns]] = 0
            chosen, taken = assign(np.maximum(gain, 0))
            track[columns[taken]] = rows[chosen]
            idle[rows[chosen]] = False
        self._advance(boxes, classes, track)
        begun = np.flatnonzero(high & (track < 0))
        ids = np.zeros(len(boxes), np.int64)
        ids[track >= 0] = self._ids[track[track >= 0]]
        if self._first:
            ids[begun] = self._new(len(begun))
        self._keep(~idle | (known & (self._missed <= self.buffer)))
        self._begin(boxes[begun], classes[begun], ids[begun])
        self._first = False
        return ids

    def _advance(self, boxes: np.ndarray, classes: np.ndarray, track: np.ndarray) -> None:
        """Tracks take in their detections, and an id with the second one."""
        seen = np.flatnonzero(track >= 0)
        rows = track[seen]
        self._states[rows] = _corrected(self._states[rows], boxes[seen])
        self._missed += 1
        self._missed[rows] = 0
        fresh = rows[self._ids[rows] == 0]
        self._ids[fresh] = self._new(len(fresh))

    def _new(self, count: int) -> np.ndarray:
        self._last += count
        return np.arange(self._last - count + 1, self._last + 1)

    def _keep(self, which: np.ndarray) -> None:
        self._ids, self._classes = self._ids[which], self._classes[which]
        self._missed, self._states = self._missed[which], self._states[which]

    def _begin(self, boxes: np.ndarray, classes: np.ndarray, ids: np.ndarray) -> None:
        self._ids = np.concatenate((self._ids, ids))
        self._classes = np.concatenate((self._classes, classes))
        self._missed = np.concatenate((self._missed, np.zeros(len(ids), np.int64)))
        self._states = np.concatenate((self._states, _started(boxes)))


# A track's state is (5, 4): for each of centre x, centre y, width and height in pixels its value, its change per frame, and
# the variance of the value, their covariance, and the variance of the change. The four do not influence each other under
# DeepSORT's noise, so that a filter of eight numbers is four of two, and no matrix needs to be inverted.


def _started(boxes: np.ndarray) -> np.ndarray:
    """States (n, 5, 4) of boxes (n, 4) seen for the first time: at rest, twice as unsure of the place as a measurement,
    ten times of the pace as a step (Wojke et al., 2017)."""
    sides = _sides(boxes)
    none = np.zeros_like(boxes)
    return np.stack((boxes, none, (2 * _PLACE * sides) ** 2, none, (10 * _PACE * sides) ** 2), 1)


def _predict(states: np.ndarray, lost: np.ndarray) -> None:
    """Move states (n, 5, 4) on by one frame, in place: x' = F x, P' = F P F^T + Q with F = [[1, 1], [0, 1]] (Kalman, 1960).

    The sides of what is out of sight (``lost``, (n,) bool) are left as they were last seen.
    """
    sides = _sides(states[:, 0])
    states[lost, 1, 2:] = 0
    place, pace, var, cov, var_pace = (states[:, i] for i in range(5))
    place += pace
    var += 2 * cov + var_pace + (_PLACE * sides) ** 2
    cov += var_pace
    var_pace += (_PACE * sides) ** 2


def _corrected(states: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """States (n, 5, 4) after boxes (n, 4) were measured, H = [1, 0]: K = P H^T / (H P H^T + R), x' = x + K (z - H x),
    P' = (1 - K H) P (Kalman, 1960)."""
    place, pace, var, cov, var_pace = (states[:, i] for i in range(5))
    total = var + (_PLACE * _sides(place)) ** 2
    gain, gain_pace, off = var / total, cov / total, boxes - place
    rest = 1 - gain
    return np.stack((place + gain * off, pace + gain_pace * off, rest * var, rest * cov, var_pace - gain_pace * cov), 1)


def _sides(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) width, height, width, height of (n, 4) centred boxes, at least a pixel."""
    return np.maximum(boxes[:, [2, 3, 2, 3]], 1)


def _centred(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) float64 centre x, centre y, width, height of (n, 4) x1, y1, x2, y2."""
    first, last = boxes[:, :2].astype(float), boxes[:, 2:].astype(float)
    return np.concatenate(((first + last) / 2, last - first), 1)


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) intersection over union, 0..1, of centred boxes (n, 4) and (m, 4)."""
    low = np.maximum((a[:, :2] - a[:, 2:] / 2)[:, None], b[:, :2] - b[:, 2:] / 2)
    high = np.minimum((a[:, :2] + a[:, 2:] / 2)[:, None], b[:, :2] + b[:, 2:] / 2)
    shared = np.maximum(high - low, 0).prod(2)
    union = np.maximum(a[:, 2:], 0).prod(1)[:, None] + b[:, 2:].prod(1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def assign(gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, each used once at most, whose ``gain`` has the largest sum; pairs that gain nothing are left out.

    Args:
        gain: (n, m) float, >= 0.

    Returns:
        Two intp arrays of equal length: pairs of gain > 0.
    """
    hits = gain > 0
    alone = hits & (hits.sum(1, keepdims=True) == 1) & (hits.sum(0) == 1)  # nobody else wants either: most of a scene
    rows, columns = np.nonzero(alone)
    left, right = np.flatnonzero(hits.any(1) & ~alone.any(1)), np.flatnonzero(hits.any(0) & ~alone.any(0))
    rest = gain[np.ix_(left, right)]
    i, j = _solve(-rest) if len(left) <= len(right) else _solve(-rest.T)[::-1]
    paid = rest[i, j] > 0
    return np.concatenate((rows, left[i[paid]])), np.concatenate((columns, right[j[paid]]))


def _solve(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest column for each row of (n, m), n <= m, no column twice.

    Rows come in one by one, each along the shortest augmenting path in reduced costs (Jonker and Volgenant, 1987, in the
    rectangular form of Crouse, "On implementing 2D rectangular assignment algorithms", 2016).
    """
    n, m = cost.shape
    of_row, of_column = np.full(n, -1), np.full(m, -1)
    u, v = np.zeros(n), np.zeros(m)
    for start in range(n):
        length, before, done = np.full(m, np.inf), np.full(m, -1), np.zeros(m, bool)
        row, reach = start, 0.0
        while True:
            through = reach + cost[row] - u[row] - v
            nearer = ~done & (through < length)
            length[nearer], before[nearer] = through[nearer], row
            end = int(np.where(done, np.inf, length).argmin())
            reach = float(length[end])
            if of_column[end] < 0:
                break
            done[end] = True
            row = int(of_column[end])
        u[start] += reach
        u[of_column[done]] += reach - length[done]
        v[done] -= reach - length[done]
        while end >= 0:
            row = before[end]
            of_column[end] = row
            of_row[row], end = end, of_row[row]
    return np.arange(n), of_row
