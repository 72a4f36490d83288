"""CVAT for images 1.1: annotations that CVAT takes for a task of the same pictures, or of the same video.

Grammar: https://docs.cvat.ai/docs/dataset_management/formats/xml_format.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import MappingProxyType
from typing import IO
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np

from edgeseg.ecosystem.text import for_xml
from edgeseg.predict.result import Result
from edgeseg.predict.writer import Stems
from edgeseg.vision.detections import Detections


class Cvat:
    """Writes ``cvat.xml``: masks as masks, else boxes; the score is an attribute, the id of a followed object its group.

    Pictures have their file names, by which CVAT finds them; of two with one name the later is ``NAME-2``. Frames of a video
    have their number; those of a second video follow.
    """

    file, shows, beside = "cvat.xml", False, MappingProxyType[str, str]({})

    def __init__(self, out: IO[bytes], like: Detections, model: str, stack: ExitStack) -> None:
        self._xml = XMLGenerator(out, "utf-8", short_empty_elements=True)
        self._names = tuple(map(for_xml, like.names))
        self._stems, self._next, self._video = Stems(), 0, ("", 0)
        self._xml.startDocument()
        self._open("annotations")
        self._leaf("version", "1.1")
        for name in ("meta", "task"):
            self._open(name)
        self._leaf("name", for_xml(model))
        self._leaf("mode", "annotation")
        self._open("labels")
        for name in self._names:
            self._label(name, "rectangle" if like.tiles is None else "mask")
        for name in ("labels", "task", "meta"):
            self._shut(name)

    def add(self, result: Result, picture: str) -> None:
        """One image and its shapes."""
        found = result.detections
        if result.number is None:
            key, name = self._next, self._stems.of_image(result.name)
        else:
            if self._video[0] != result.path or result.number == 0:
                self._video = (result.path, self._next)
            key = self._video[1] + result.number
            name = f"frame_{key:06d}"
        self._next = key + 1
        height, width = found.shape
        self._open("image", id=str(key), name=for_xml(name), width=str(width), height=str(height))
        for i in range(len(found)):
            self._shape(result, i)
        self._shut("image")

    def close(self) -> None:
        """The end."""
        self._shut("annotations")
        self._xml.endDocument()

    def _shape(self, result: Result, i: int) -> None:
        found = result.detections
        told = {"label": self._names[int(found.classes[i])], "source": "auto", "occluded": "0", "z_order": "0"}
        if result.ids is not None:
            told["group_id"] = str(int(result.ids[i]))
        tile = None if found.tiles is None else found.tiles.tiles[i]
        if tile is not None and tile.any() and found.tiles is not None:
            (x, y), (h, w) = found.tiles.corners[i].tolist(), tile.shape
            kind, place = "mask", {"rle": _runs(tile), "left": str(x), "top": str(y), "width": str(w), "height": str(h)}
        else:
            kind, place = "box", dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{v:.2f}" for v in found.boxes[i].tolist())))
        self._open(kind, **told, **place)
        self._leaf("attribute", f"{found.scores[i]:.5f}", name="score")
        self._shut(kind)

    def _label(self, name: str, kind: str) -> None:
        self._open("label")
        self._leaf("name", name)
        self._leaf("type", kind)
        for part in ("attributes", "attribute"):
            self._open(part)
        for key, value in (("name", "score"), ("mutable", "False"), ("input_type", "text"), ("default_value", "")):
            self._leaf(key, value)
        self._leaf("values", "")
        for part in ("attribute", "attributes", "label"):
            self._shut(part)

    def _open(self, element: str, /, **attributes: str) -> None:
        self._xml.startElement(element, AttributesImpl(attributes))

    def _shut(self, name: str) -> None:
        self._xml.endElement(name)
        self._xml.ignorableWhitespace("\n")

    def _leaf(self, element: str, text: str, /, **attributes: str) -> None:
        self._open(element, **attributes)
        self._xml.characters(text)
        self._shut(element)


def _runs(tile: np.ndarray) -> str:
    """Lengths of runs of a mask (h, w) bool, row by row, zeros first, with commas."""
    flat = tile.ravel().view(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=np.int8(0)))
    return ", ".join(map(str, np.diff(edges, prepend=0, append=flat.size).tolist()))
