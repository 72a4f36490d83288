"""Figures of a validation under the names that people know from other YOLO tools: ``metrics.box.p``, ``class_result(i)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.evaluate.curves import GRID, Curves

if TYPE_CHECKING:
    from edgeseg.evaluate.confusion import Confusion
    from edgeseg.evaluate.metrics import AveragePrecision, Metrics


BY_SCORE = {"p": "precision", "r": "recall", "f1": "f1"}
BY_CLASS = {"ap": "maps", "ap50": "maps50", "all_ap": "by_iou"}
CURVES = {"p_curve": "precision", "r_curve": "recall", "f1_curve": "f1", "prec_values": "precision_at_recall"}


class ClassFigures:
    """What ``AveragePrecision`` answers class by class: arrays of the k classes that occur, in the order of their numbers.

    ``p r f1`` (k,) are precision, recall and F1 at IoU 0.5 and the one confidence where F1, as the mean over the classes, is
    highest, ``ap`` and ``ap50`` (k,) AP over IoU 0.50 to 0.95 and at 0.50, ``all_ap`` (k, 10) at each of them; ``p_curve
    r_curve f1_curve`` (k, 1001) go over the confidences ``px``, ``prec_values`` over recall. NaN where only AP was measured.
    """

    maps: np.ndarray
    by_score: Curves | None
    px = GRID

    @property
    def ap_class_index(self) -> np.ndarray:
        """(k,) the numbers of the classes that occur."""
        return np.flatnonzero(~np.isnan(self.maps))

    def __getattr__(self, name: str) -> np.ndarray:
        if name in BY_CLASS:
            found: np.ndarray = getattr(self, BY_CLASS[name])
            return found[self.ap_class_index]
        if name not in CURVES and name not in BY_SCORE:
            raise AttributeError(f"average precision has no {name!r}")
        if self.by_score is None:
            return np.full((len(self.ap_class_index), *((len(GRID),) if name in CURVES else ())), np.nan)
        rows: np.ndarray = getattr(self.by_score, {**CURVES, **BY_SCORE}[name])[self.ap_class_index]
        return rows if name in CURVES else rows[:, self.by_score.best]

    def class_result(self, i: int) -> tuple[float, float, float, float]:
        """Precision, recall, AP50 and AP of ``ap_class_index[i]``."""
        return float(self.p[i]), float(self.r[i]), float(self.ap50[i]), float(self.ap[i])


class Figures:
    """The same for ``ValidationResult``: boxes, then masks of a segmentation network."""

    metrics: Metrics

    @property
    def names(self) -> dict[int, str]:
        """Class names by number."""
        return dict(enumerate(self.metrics.names))

    @property
    def ap_class_index(self) -> np.ndarray:
        """(k,) the numbers of the classes that occur."""
        return self.metrics.box.ap_class_index

    @property
    def maps(self) -> np.ndarray:
        """(classes,) AP of boxes and masks added, NaN for a class that does not occur."""
        return np.sum([ap.maps for _, ap in self._parts], axis=0)

    @property
    def confusion_matrix(self) -> Confusion | None:
        """What was taken for what: ``.matrix``."""
        return self.metrics.confusion

    @property
    def keys(self) -> list[str]:
        """The names of ``mean_results``."""
        words = ("precision", "recall", "mAP50", "mAP50-95")
        return [f"metrics/{word}({letter})" for letter, _ in self._parts for word in words]

    def mean_results(self) -> list[float]:
        """Precision, recall, AP50 and AP of boxes, then of masks."""
        return [v for _, ap in self._parts for v in (ap.mp, ap.mr, ap.map50, ap.map)]

    def class_result(self, i: int) -> tuple[float, ...]:
        """The same of ``ap_class_index[i]``."""
        return tuple(v for _, ap in self._parts for v in ap.class_result(i))

    @property
    def results_dict(self) -> dict[str, float]:
        """``mean_results`` by ``keys``, and ``fitness``."""
        return {**dict(zip(self.keys, self.mean_results())), "fitness": self.metrics.fitness}

    def summary(self) -> list[dict[str, Any]]:
        """One mapping a class that occurs: ``Class Box-P Box-R Box-F1 mAP50 mAP50-95``, and ``Mask-P Mask-R Mask-F1``."""
        found = []
        for i, number in enumerate(self.ap_class_index.tolist()):
            row: dict[str, Any] = {"Class": self.metrics.names[number]}
            for word, (_, ap) in zip(("Box", "Mask"), self._parts):
                row |= {f"{word}-P": float(ap.p[i]), f"{word}-R": float(ap.r[i]), f"{word}-F1": float(ap.f1[i])}
                row |= {"mAP50": float(ap.ap50[i]), "mAP50-95": float(ap.ap[i])} if word == "Box" else {}
            found.append(row)
        return found

    @property
    def _parts(self) -> list[tuple[str, AveragePrecision]]:
        box, seg = self.metrics.box, self.metrics.seg
        return [("B", box), *([] if np.isnan(seg.map) else [("M", seg)])]
