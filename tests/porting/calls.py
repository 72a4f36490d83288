"""Calls that people write, each run and described: ``python calls.py PACKAGE MODEL IMAGE DATA SIZE`` prints one JSON object.

``PACKAGE`` is where ``YOLO`` comes from: nothing else in this file knows which tool runs it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

package, weights, picture, data = sys.argv[1:5]
SIZE = int(sys.argv[5])
YOLO = importlib.import_module(package).YOLO
os.chdir(tempfile.mkdtemp())

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

OUT = str(Path("out").absolute())
model = YOLO(weights)
image = cv2.imread(picture)
quiet = {"verbose": False, "imgsz": SIZE}
tensor = torch.from_numpy(np.ascontiguousarray(cv2.resize(image, (SIZE, SIZE))[..., ::-1].transpose(2, 0, 1)))[None] / 255
r = model.predict(picture, **quiet)[0]
Path("list.txt").write_text(picture + "\n")
events: list[str] = []

CALLS = {
    "YOLO(path, task='segment').task": lambda: YOLO(weights, task="segment").task,
    "len(model.names)": lambda: len(model.names),
    "model.names[0]": lambda: model.names[0],
    "dict(model.names.items())": lambda: {int(k): v for k, v in model.names.items()},
    "list(model.names.values())": lambda: list(model.names.values()),
    "model.task": lambda: model.task,
    "str(model.device)": lambda: str(model.device),
    "isinstance(model.model, torch.nn.Module)": lambda: isinstance(model.model, torch.nn.Module),
    "model.to('cpu')": lambda: type(model.to("cpu")) is type(model) or model.to("cpu") is None,
    "model(path)": lambda: len(model(picture, **quiet)[0]),
    "model.predict(array)": lambda: len(model.predict(image, **quiet)[0]),
    "model.predict(list of arrays)": lambda: len(model.predict([image, image], **quiet)),
    "model.predict(PIL)": lambda: len(model.predict(__import__("PIL.Image").Image.open(picture), **quiet)[0]),
    "model.predict(tensor)": lambda: len(model.predict(tensor, **quiet)),
    "model.predict('list.txt')": lambda: len(model.predict("list.txt", **quiet)),
    "model.predict(stream=True)": lambda: len(next(iter(model.predict(picture, stream=True, **quiet)))),
    "model.predict(conf=.9)": lambda: len(model.predict(picture, conf=0.9, **quiet)[0]),
    "model.predict(classes=[0])": lambda: sorted(
        {int(c) for c in model.predict(picture, classes=[0], **quiet)[0].boxes.cls}
    ),
    "model.predict(max_det=1)": lambda: len(model.predict(picture, max_det=1, **quiet)[0]),
    "model.predict(device='cpu')": lambda: len(model.predict(picture, device="cpu", **quiet)[0]),
    "model.predict(retina_masks=True)": lambda: list(
        model.predict(picture, retina_masks=True, **quiet)[0].masks.data.shape[1:]
    ),
    "model.predict(batch=2)": lambda: len(model.predict([picture, picture], batch=2, **quiet)),
    "model.predict(vid_stride=2)": lambda: len(model.predict(picture, vid_stride=2, **quiet)),
    "model.predict(save=True, project, name)": lambda: (
        model.predict(picture, save=True, project=OUT, name="a", **quiet) and len(list(Path().rglob("out/a/*.*")))
    ),
    "model.predict(save_txt=True, save_conf=True)": lambda: (
        model.predict(picture, save_txt=True, save_conf=True, project=OUT, name="b", **quiet)
        and len(next(iter(Path().rglob("out/b/labels/*.txt"))).read_text().splitlines())
    ),
    "model.predict(save_crop=True)": lambda: (
        model.predict(picture, save_crop=True, project=OUT, name="c", **quiet)
        and len(list(Path().rglob("out/c/crops/*/*.jpg")))
    ),
    "model.predict(agnostic_nms=True)": lambda: len(model.predict(picture, agnostic_nms=True, **quiet)[0]),
    "model.predict(half=True)": lambda: len(model.predict(picture, half=True, **quiet)[0]),
    "model.predict(augment=True)": lambda: len(model.predict(picture, augment=True, **quiet)[0]),
    "len(r)": lambda: len(r),
    "len(r.boxes)": lambda: len(r.boxes),
    "r.boxes.xyxy": lambda: list(r.boxes.xyxy.shape),
    "r.boxes.xywh": lambda: list(r.boxes.xywh.shape),
    "r.boxes.xyxyn.max() <= 1": lambda: bool(r.boxes.xyxyn.max() <= 1),
    "r.boxes.xywhn": lambda: list(r.boxes.xywhn.shape),
    "r.boxes.conf": lambda: list(r.boxes.conf.shape),
    "[int(c) for c in r.boxes.cls]": lambda: [int(c) for c in r.boxes.cls],
    "r.boxes.id": lambda: r.boxes.id,
    "r.boxes.data": lambda: list(r.boxes.data.shape),
    "r.boxes.cpu().numpy().xyxy": lambda: list(r.boxes.cpu().numpy().xyxy.shape),
    "for box in r.boxes: box.xyxy[0]": lambda: [len(box.xyxy[0]) for box in r.boxes],
    "float(r.boxes[0].conf)": lambda: round(float(r.boxes[0].conf[0]), 2),
    "len(r.masks)": lambda: len(r.masks),
    "len(r.masks.xy)": lambda: len(r.masks.xy),
    "r.masks.xy[0].shape[1]": lambda: r.masks.xy[0].shape[1],
    "r.masks.xyn[0].max() <= 1": lambda: bool(r.masks.xyn[0].max() <= 1),
    "r.masks.data.shape": lambda: list(r.masks.data.shape),
    "r.orig_shape": lambda: list(r.orig_shape),
    "r.orig_img.shape": lambda: list(r.orig_img.shape),
    "r.path": lambda: Path(r.path).name,
    "r.names[0]": lambda: r.names[0],
    "sorted(r.speed)": lambda: sorted(r.speed),
    "len(r[0])": lambda: len(r[0]),
    "len(r.cpu().numpy())": lambda: len(r.cpu().numpy()),
    "r.plot().shape": lambda: list(r.plot().shape),
    "r.plot(conf=False, labels=False, boxes=False)": lambda: list(r.plot(conf=False, labels=False, boxes=False).shape),
    "r.plot(pil=True).size": lambda: list(r.plot(pil=True).size) if hasattr(r.plot(pil=True), "size") else None,
    "r.save(filename=...)": lambda: bool(r.save(filename="x.jpg")) and Path("x.jpg").exists(),
    "r.save_txt(...)": lambda: bool(r.save_txt("x.txt")) and len(Path("x.txt").read_text().splitlines()),
    "r.save_crop(...)": lambda: r.save_crop("crops") is None or True,
    "sorted(r.summary()[0])": lambda: sorted(r.summary()[0]),
    "len(json.loads(r.to_json()))": lambda: len(json.loads(r.to_json())),
    "r.to_csv().count('\\n') > 1": lambda: r.to_csv().count("\n") > 1,
    "r.verbose()": lambda: bool(r.verbose()),
    "model.add_callback('on_train_end', f)": lambda: model.add_callback("on_train_end", events.append),
    "model.save('copy.pt')": lambda: (model.save("copy.pt"), Path("copy.pt").exists())[1],
    "model.val(data).box.map": lambda: round(float(model.val(data=data, imgsz=SIZE, verbose=False, plots=False).box.map), 1),
    "model.val(batch=4).seg.map50": lambda: round(
        float(model.val(data=data, imgsz=SIZE, batch=4, verbose=False, plots=False).seg.map50), 1
    ),
    "sorted(model.val().results_dict)": lambda: sorted(
        model.val(data=data, imgsz=SIZE, verbose=False, plots=False).results_dict
    ),
    "model.val().fitness > 0": lambda: bool(model.val(data=data, imgsz=SIZE, verbose=False, plots=False).fitness > 0),
    "model.track(path)": lambda: len(model.track(picture, **quiet)),
    "model.track(frame, persist=True)[0].boxes.id": lambda: [
        sorted(int(i) for i in model.track(image, persist=True, **quiet)[0].boxes.id) for _ in range(3)
    ],
    "next(model.track(video, stream=True)).boxes.is_track": lambda: (
        next(iter(model.track(picture, stream=True, **quiet))).boxes.is_track
    ),
    "model.track(tracker='botsort.yaml')": lambda: len(model.track(picture, tracker="botsort.yaml", **quiet)),
}


def outcome(call: object) -> dict[str, object]:
    try:
        return {"gave": call()}  # type: ignore[operator]
    except Exception as e:
        return {"refused": f"{type(e).__name__}: {e}"[:300]}


found = {text: outcome(call) for text, call in CALLS.items()}
print("\n@@@" + json.dumps(found, default=str))
