"""Label Studio's tasks with predictions, and the labelling configuration that they belong to.

Grammar: https://labelstud.io/guide/predictions, https://labelstud.io/tags/polygonlabels; numbers are per cent of the image.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from edgeseg.ecosystem.text import for_xml
from edgeseg.predict.result import Result
from edgeseg.vision.detections import Detections
from edgeseg.vision.draw import colour_of


class LabelStudio:
    """Writes ``labelstudio.json`` and ``labelstudio.xml``: polygons of masks (a region for each part), rectangles of boxes.

    Files are named as Label Studio serves local files whose document root is ``/``. The id of a followed object is the
    region's note.
    """

    file, shows = "labelstudio.json", True

    def __init__(self, out: IO[bytes], like: Detections, model: str, stack: ExitStack) -> None:
        self._out, self._model, self._count = out, model, 0
        self._kind = "rectanglelabels" if like.tiles is None else "polygonlabels"
        self._names = tuple(map(for_xml, like.names))
        self.beside = {"labelstudio.xml": self._configuration()}
        out.write(b"[")

    def _configuration(self) -> str:
        tag = {"rectanglelabels": "RectangleLabels", "polygonlabels": "PolygonLabels"}[self._kind]
        lines = ["<View>", '  <Image name="image" value="$image" zoom="true"/>', f'  <{tag} name="label" toName="image">']
        for i, name in enumerate(self._names):
            b, g, r = colour_of(i)
            lines.append(f'    <Label value={quoteattr(name)} background="#{r:02x}{g:02x}{b:02x}"/>')
        return "\n".join([*lines, f"  </{tag}>", "</View>", ""])

    def add(self, result: Result, picture: str) -> None:
        """One task with one prediction."""
        url = picture if "://" in picture else f"/data/local-files/?d={quote(Path(picture).as_posix().lstrip('/'))}"
        scores = result.detections.scores
        prediction = {
            "model_version": self._model,
            "score": float(scores.mean()) if len(scores) else 0.0,
            "result": [r for i in range(len(result)) for r in self._regions(result, i)],
        }
        task = {"data": {"image": url}, "predictions": [prediction]}
        self._out.write((b",\n" if self._count else b"\n") + json.dumps(task).encode())
        self._count += 1

    def close(self) -> None:
        """The end."""
        self._out.write(b"\n]\n")

    def _regions(self, result: Result, i: int) -> list[dict[str, Any]]:
        one = result.detections[i]
        height, width = one.shape
        share = np.array((100 / width, 100 / height))
        common = {"from_name": "label", "to_name": "image", "type": self._kind, "score": float(one.scores[0])}
        common |= {"original_width": width, "original_height": height, "image_rotation": 0}
        if result.ids is not None:
            common["meta"] = {"text": [f"id {int(result.ids[i])}"]}
        if self._kind == "rectanglelabels":
            (x, y), (x2, y2) = (one.boxes[0].reshape(2, 2) * share).tolist()
            shapes: list[dict[str, Any]] = [{"x": x, "y": y, "width": x2 - x, "height": y2 - y, "rotation": 0}]
        else:
            parts = one.polygons()[0] or [one.boxes[0][[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)]
            shapes = [{"points": (part * share).round(4).tolist(), "closed": True} for part in parts]
        label = {self._kind: [self._names[int(one.classes[0])]]}
        return [{"id": f"{self._count}-{i}-{k}", **common, "value": {**s, **label}} for k, s in enumerate(shapes)]
