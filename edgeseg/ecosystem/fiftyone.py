"""COCO's JSON of instances with scores: FiftyOne reads it as ``COCODetectionDataset``, ``edgeseg data convert`` as labels.

Grammar: https://docs.voxel51.com/user_guide/import_datasets.html#cocodetectiondataset, https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import IO, Any

from edgeseg.predict.result import Result
from edgeseg.vision.detections import Detections


class FiftyOne:
    """Writes ``fiftyone.json``: file names are whole paths, masks COCO's compressed run lengths, ``track_id`` an attribute.

    Annotations wait in a temporary file, since images come before them.
    """

    file, shows, beside = "fiftyone.json", True, MappingProxyType[str, str]({})

    def __init__(self, out: IO[bytes], like: Detections, model: str, stack: ExitStack) -> None:
        self._out, self._images, self._annotations = out, 0, 0
        self._later = stack.enter_context(tempfile.TemporaryFile("w+b"))  # noqa: SIM115
        categories = [{"id": i, "name": name} for i, name in enumerate(like.names, 1)]
        head = {"info": {"description": model}, "categories": categories}
        out.write(json.dumps(head)[:-1].encode() + b', "images": [')

    def add(self, result: Result, picture: str) -> None:
        """One image and its objects."""
        height, width = result.detections.shape
        self._images += 1
        image = {"id": self._images, "file_name": picture, "height": height, "width": width}
        self._out.write((b",\n" if self._images > 1 else b"\n") + json.dumps(image).encode())
        found = result.detections
        codes: Sequence[Any] = found.rle() or (None,) * len(found)
        for i, (box, code) in enumerate(zip(found.boxes.tolist(), codes)):
            x1, y1, x2, y2 = box
            self._annotations += 1
            one: dict[str, Any] = {
                "id": self._annotations,
                "image_id": self._images,
                "category_id": int(found.classes[i]) + 1,
                "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
                "area": round((x2 - x1) * (y2 - y1), 3),
                "iscrowd": 0,
                "score": float(found.scores[i]),
            }
            if code is not None and found.tiles is not None and found.tiles.tiles[i].any():
                one |= {"segmentation": code, "area": int(found.tiles.tiles[i].sum())}
            if result.ids is not None:
                one["track_id"] = int(result.ids[i])
            self._later.write((b",\n" if self._annotations > 1 else b"\n") + json.dumps(one).encode())

    def close(self) -> None:
        """The annotations, and the end."""
        self._out.write(b'\n], "annotations": [')
        self._later.seek(0)
        shutil.copyfileobj(self._later, self._out)
        self._out.write(b"\n]}\n")
