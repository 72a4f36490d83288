"""Calls that people write, each run and described: ``python calls.py PACKAGE MODEL IMAGE DATA SIZE`` prints one JSON object.

``PACKAGE`` is where ``YOLO`` comes from: nothing else in this file knows which tool runs it.
"""

from __future__ import annotations

import copy
import functools
import importlib
import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

package, (weights, picture, data) = sys.argv[1], map(os.path.abspath, sys.argv[2:5])
SIZE = int(sys.argv[5])
YOLO = importlib.import_module(package).YOLO
os.chdir(tempfile.mkdtemp())
weights = shutil.copy(weights, ".")  # an export lies beside it

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
Path("folder").mkdir()
for name in "ab":
    cv2.imwrite(f"folder/{name}.png", image)
film = cv2.VideoWriter("film.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 5, (SIZE, SIZE))
for _ in range(6):
    film.write(cv2.resize(image, (SIZE, SIZE)))
film.release()
wide = np.ascontiguousarray(image[: image.shape[0] * 5 // 8])
events: list[str] = []


@functools.cache
def validated() -> object:
    return model.val(data=data, imgsz=SIZE, verbose=False, plots=True, save_json=True, project=OUT, name="val")


def counted(results: object) -> list[int]:
    return [len(x) for x in results]  # type: ignore[attr-defined]


def filled(ring: np.ndarray) -> bool:
    canvas = np.zeros(image.shape[:2], np.uint8)
    return bool(cv2.fillPoly(canvas, [ring.astype(np.int32)], 255).any())


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
    "model.predict(source=Path)": lambda: counted(model.predict(source=Path(picture), **quiet)),
    "model.predict(folder)": lambda: counted(model.predict("folder", **quiet)),
    "model.predict(glob)": lambda: counted(model.predict("folder/*.png", **quiet)),
    "model.predict([path, path])": lambda: counted(model.predict([picture, picture], **quiet)),
    "model.predict(video)": lambda: counted(model.predict("film.mp4", **quiet)),
    "model.predict(video, stream=True, vid_stride=2)": lambda: counted(
        model.predict("film.mp4", stream=True, vid_stride=2, **quiet)
    ),
    "model.predict(video, save=True, save_frames=True)": lambda: (
        len(model.predict("film.mp4", save=True, save_frames=True, project=OUT, name="d", **quiet)),
        len(list(Path("out/d").rglob("*.jpg"))),
    ),
    "model.predict(video, save_txt=True)": lambda: (
        model.predict("film.mp4", save_txt=True, project=OUT, name="e", **quiet)
        and len(list(Path("out/e/labels").iterdir()))
    ),
    "r.save_dir": lambda: Path(model.predict(picture, save=True, project=OUT, name="f", **quiet)[0].save_dir).name,
    "model.predict(wide, rect=True)": lambda: [
        [round(float(v) / 4) for v in box] for box in model.predict(wide, rect=True, **quiet)[0].boxes.xyxy[:2]
    ],
    "model.predict(imgsz=(SIZE, SIZE))": lambda: len(model.predict(picture, imgsz=(SIZE, SIZE), verbose=False)[0]),
    "model.predict(show_labels=False, line_width=1, save=True)": lambda: len(
        model.predict(picture, show_labels=False, show_conf=False, line_width=1, save=True, project=OUT, name="g", **quiet)
    ),
    "model.predict(iou=.1, agnostic_nms=True)": lambda: len(model.predict(picture, iou=0.1, agnostic_nms=True, **quiet)[0]),
    "model.predict(embed=[1])": lambda: bool(model.predict(picture, embed=[1], **quiet)),
    "model.predict(visualize=True)": lambda: bool(model.predict(picture, visualize=True, **quiet)),
    "model.predict(half=True)": lambda: len(model.predict(picture, half=True, **quiet)[0]),
    "model.predict(augment=True)": lambda: len(model.predict(picture, augment=True, **quiet)[0]),
    "results[0].boxes.data.tolist()": lambda: [len(row) for row in model(picture, **quiet)[0].boxes.data.tolist()],
    "r.boxes.xyxy.cpu().numpy()": lambda: type(r.boxes.xyxy.cpu().numpy()).__name__,
    "r.boxes.cls.cpu().numpy().astype(int)": lambda: r.boxes.cls.cpu().numpy().astype(int).tolist(),
    "r.boxes.cls.int().tolist()": lambda: r.boxes.cls.int().tolist(),
    "r.boxes.conf.cpu().numpy().round(1)": lambda: [round(float(v), 1) for v in r.boxes.conf.cpu().numpy()],
    "[r.names[int(c)] for c in r.boxes.cls]": lambda: [r.names[int(c)] for c in r.boxes.cls],
    "int(box.cls), float(box.conf)": lambda: [(int(box.cls), round(float(box.conf), 1)) for box in r.boxes],
    "box.conf.item()": lambda: [round(box.conf.item(), 1) for box in r.boxes],
    "math.ceil(box.conf[0] * 100) / 100": lambda: [0 < math.ceil(box.conf[0] * 100) / 100 <= 1 for box in r.boxes],
    "f'{box.conf[0]:.1f}'": lambda: [f"{box.conf[0]:.1f}" for box in r.boxes],
    "x1, y1, x2, y2 = map(int, box.xyxy[0])": lambda: [len([*map(int, box.xyxy[0])]) for box in r.boxes],
    "box.xyxy[0].tolist()": lambda: [len(box.xyxy[0].tolist()) for box in r.boxes],
    "box.xywh[0].cpu().numpy()": lambda: [list(box.xywh[0].cpu().numpy().shape) for box in r.boxes],
    "r.boxes[r.boxes.conf > .5]": lambda: len(r.boxes[r.boxes.conf > 0.5]),
    "r[r.boxes.cls == 0]": lambda: len(r[r.boxes.cls == r.boxes.cls[0]]),
    "r.boxes.xyxy[r.boxes.cls == 0]": lambda: list(r.boxes.xyxy[r.boxes.cls == r.boxes.cls[0]].shape),
    "r.boxes.conf.max(), .argmax()": lambda: (round(float(r.boxes.conf.max()), 1), int(r.boxes.conf.argmax())),
    "torch.tensor(r.boxes.xyxy)": lambda: list(torch.as_tensor(np.array(r.boxes.xyxy)).shape),
    "r.boxes.numpy().conf": lambda: type(np.asarray(r.boxes.numpy().conf)).__name__,
    "r.to('cpu').boxes": lambda: len(r.to("cpu").boxes),
    "copy.deepcopy(r)": lambda: len(copy.deepcopy(r).boxes),
    "r.probs, r.keypoints, r.obb": lambda: [r.probs, r.keypoints, r.obb],
    "r.masks.data[0].cpu().numpy()": lambda: str(r.masks.data[0].cpu().numpy().dtype),
    "(r.masks.data[0].cpu().numpy() * 255).astype('uint8')": lambda: int(
        (r.masks.data[0].cpu().numpy() * 255).astype("uint8").max()
    ),
    "cv2.resize(r.masks.data[0].cpu().numpy(), ...)": lambda: list(
        cv2.resize(r.masks.data[0].cpu().numpy(), (64, 48)).shape
    ),
    "r.masks.xy[0].astype(int)": lambda: r.masks.xy[0].astype(int).shape[1],
    "cv2.fillPoly(canvas, [r.masks.xy[0]], 255)": lambda: filled(r.masks.xy[0]),
    "r.plot()[..., ::-1]": lambda: list(r.plot()[..., ::-1].shape),
    "r.plot(line_width=2, color_mode='instance')": lambda: list(r.plot(line_width=2, color_mode="instance").shape),
    "r.plot(img=copy)": lambda: list(r.plot(img=image.copy()).shape),
    "list(r.to_df()['name'])": lambda: list(r.to_df()["name"]),
    "r.summary(normalize=True)": lambda: max(r.summary(normalize=True)[0]["box"].values()) <= 1,
    "r.speed['inference'] > 0": lambda: r.speed["inference"] > 0,
    "isinstance(model.names, dict)": lambda: isinstance(model.names, dict),
    "for k in model.names": lambda: [model.names[k] for k in model.names][:3],
    "{v: k for k, v in model.names.items()}": lambda: {v: int(k) for k, v in model.names.items()}[model.names[0]],
    "json.dumps(model.names)": lambda: json.dumps(model.names)[:20],
    "model.device.type": lambda: model.device.type,
    "model.fuse()": lambda: model.fuse() is None or True,
    "YOLO('yolov8n-seg.yaml').load(weights)": lambda: (
        YOLO("yolov8n-seg.yaml").load(weights).task if weights.endswith("yolov8n-seg.pt") else "segment"
    ),
    "YOLO(model.export(format='torchscript'))(path)": lambda: len(
        YOLO(str(model.export(format="torchscript", imgsz=SIZE, device="cpu")), task="segment")(picture, **quiet)[0]
    ),
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
    "model.clear_callback('on_train_end')": lambda: model.clear_callback("on_train_end"),
    "model.save('copy.pt')": lambda: (model.save("copy.pt"), Path("copy.pt").exists())[1],
    "model.val(data).box.map": lambda: round(float(validated().box.map), 1),
    "model.val(batch=4, half=False, rect=True).seg.map50": lambda: round(
        float(model.val(data=data, imgsz=SIZE, batch=4, half=False, rect=True, verbose=False, plots=False).seg.map50), 1
    ),
    "sorted(metrics.results_dict)": lambda: sorted(validated().results_dict),
    "metrics.fitness > 0": lambda: bool(validated().fitness > 0),
    "metrics.box.mp, mr, map75": lambda: [
        0 < float(x) < 1 for x in (validated().box.mp, validated().box.mr, validated().box.map75)
    ],
    "metrics.box.p, r, f1, ap, ap50, all_ap": lambda: [
        list(getattr(validated().box, k).shape) for k in ("p", "r", "f1", "ap", "ap50", "all_ap")
    ],
    "metrics.seg.f1.mean() > 0": lambda: bool(validated().seg.f1.mean() > 0),
    "metrics.box.maps.shape": lambda: list(validated().box.maps.shape),
    "metrics.maps.shape": lambda: list(validated().maps.shape),
    "metrics.ap_class_index": lambda: [int(i) for i in validated().ap_class_index],
    "metrics.names[0]": lambda: validated().names[0],
    "len(metrics.class_result(0))": lambda: len(validated().class_result(0)),
    "len(metrics.mean_results())": lambda: len(validated().mean_results()),
    "metrics.keys": lambda: list(validated().keys),
    "{'preprocess', 'inference', 'postprocess'} <= set(metrics.speed)": lambda: (
        {"preprocess", "inference", "postprocess"} <= set(validated().speed)
    ),
    "metrics.confusion_matrix.matrix": lambda: list(validated().confusion_matrix.matrix.shape),
    "metrics.confusion_matrix.matrix[:, 0].sum()": lambda: int(validated().confusion_matrix.matrix[:, 0].sum()),
    "metrics.summary()[0]['Class']": lambda: validated().summary()[0]["Class"],
    "sorted(charts in metrics.save_dir)": lambda: sorted(p.name for p in Path(validated().save_dir).glob("*.png")),
    "predictions.json": lambda: (
        {"image_id", "category_id", "bbox", "score", "segmentation"}
        <= set(json.loads((Path(validated().save_dir) / "predictions.json").read_text())[0])
    ),
    "model.track(path)": lambda: len(model.track(picture, **quiet)),
    "model.track(frame, persist=True, tracker='bytetrack.yaml')[0].boxes.id": lambda: [
        sorted(int(i) for i in model.track(image, persist=True, tracker="bytetrack.yaml", **quiet)[0].boxes.id)
        for _ in range(3)
    ],
    "next(model.track(video, stream=True)).boxes.is_track": lambda: (
        next(iter(model.track(picture, stream=True, **quiet))).boxes.is_track
    ),
    "model.track(video, tracker='bytetrack.yaml')": lambda: counted(
        model.track("film.mp4", tracker="bytetrack.yaml", conf=0.3, iou=0.5, **quiet)
    ),
    "boxes.id.int().cpu().tolist()": lambda: sorted(
        model.track("film.mp4", tracker="bytetrack.yaml", persist=True, **quiet)[-1].boxes.id.int().cpu().tolist()
    )[:1],
    "type(r.boxes.xyxy)": lambda: type(r.boxes.xyxy).__name__,
    "r.boxes.xyxy[0] = 0": lambda: model(picture, **quiet)[0].boxes.xyxy.__setitem__(0, 0),
    "r.boxes.id.dtype": lambda: str(model.track(picture, tracker="bytetrack.yaml", **quiet)[0].boxes.id.dtype),
    "model.predict(wide)[0].masks.data.shape": lambda: (
        list(model.predict(wide, **quiet)[0].masks.data.shape[1:]) == [*wide.shape[:2]]
    ),
    "len(model.track(frame, persist=True)[0])": lambda: len(model.track(image, persist=True, **quiet)[0]),
    "metrics.box.maps of a class that is not there": lambda: bool(np.isnan(validated().box.maps).any()),
    "metrics.fitness": lambda: round(float(validated().fitness), 2),
    "type(model.info())": lambda: type(model.info()).__name__,
    "type(model.export(format='torchscript'))": lambda: (
        type(model.export(format="torchscript", imgsz=SIZE, device="cpu")).__name__
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
