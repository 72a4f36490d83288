"""Every option that other YOLO tools document, with a value that is not its default, and what each mode makes of it.

``DOES``: it does what it says. ``SAME``: it changes nothing of what comes out, here as there, or is what is done anyway.
Everything else must be refused, with what to use instead.
"""

from __future__ import annotations

from typing import Any

VALUES: dict[str, Any] = {
    "data": "coco8-seg.yaml", "epochs": 3, "time": 1.0, "patience": 5, "batch": 8, "imgsz": 96, "save": True,
    "save_period": 1, "cache": True, "device": "cpu", "workers": 0, "project": "out", "name": "n", "exist_ok": True,
    "pretrained": "x.pt",
    "cls_remap": False, "optimizer": "SGD", "verbose": True, "seed": 3, "deterministic": False, "single_cls": True,
    "rect": True, "cos_lr": True, "close_mosaic": 0, "resume": True, "amp": False, "fraction": 0.5, "profile": True,
    "freeze": 3, "multi_scale": 0.5, "compile": True, "channels_last": True, "overlap_mask": False, "mask_ratio": 2,
    "dropout": 0.1, "val": False, "split": "train", "save_json": True, "save_hybrid": True, "conf": 0.4, "iou": 0.5,
    "max_det": 5, "quantize": 8, "dnn": True, "plots": True, "nms": True, "vid_stride": 2, "stream_buffer": True,
    "visualize": True, "augment": True, "agnostic_nms": True, "classes": [0], "retina_masks": True, "embed": [1],
    "show": True, "save_frames": True, "save_txt": True, "save_conf": True, "save_crop": True, "show_labels": False,
    "show_conf": False, "show_boxes": False, "line_width": 3, "format": "torchscript", "optimize": True, "dynamic": True,
    "simplify": False, "opset": 17, "workspace": 2.0, "keras": True, "lr0": 0.02, "lrf": 0.1, "momentum": 0.8,
    "weight_decay": 0.001, "warmup_epochs": 1.0, "warmup_momentum": 0.5, "warmup_bias_lr": 0.2, "distill_model": "y.pt",
    "dis": 3.0, "box": 5.0, "cls": 0.4, "cls_pw": 0.5, "dfl": 1.0, "pose": 3.0, "kobj": 2.0, "rle": 2.0, "angle": 2.0,
    "nbs": 32, "hsv_h": 0.1, "hsv_s": 0.1, "hsv_v": 0.1, "degrees": 5.0, "translate": 0.2, "scale": 0.4, "shear": 2.0,
    "perspective": 0.001, "flipud": 0.5, "fliplr": 0.1, "bgr": 0.5, "mosaic": 0.5, "mixup": 0.5, "cutmix": 0.5,
    "copy_paste": 0.5, "copy_paste_mode": "mixup", "auto_augment": "augmix", "erasing": 0.2, "cfg": "x.yaml",
    "tracker": "botsort.yaml", "half": True, "int8": True, "stream": True, "end2end": True, "label_smoothing": 0.1,
}  # fmt: skip
_SEEN = "imgsz device project name exist_ok rect conf iou max_det agnostic_nms"
_PICTURES = (
    "save vid_stride classes show save_frames save_txt save_conf save_crop show_labels show_conf show_boxes line_width"
)
DOES: dict[str, str] = {
    "predict": f"{_SEEN} {_PICTURES} stream",
    "track": f"{_SEEN} {_PICTURES} stream",
    "val": f"{_SEEN} data split save_json plots",
    "export": ("data imgsz device half int8 format optimize dynamic simplify opset workspace nms batch end2end seed keras"),
    "train": (
        "data epochs patience batch imgsz cache device workers project name exist_ok pretrained optimizer seed cos_lr plots "
        "close_mosaic resume amp freeze multi_scale val lr0 lrf momentum weight_decay warmup_epochs box cls dfl nbs hsv_h "
        "hsv_s hsv_v degrees translate scale shear flipud fliplr mosaic mixup copy_paste"
    ),
}
SAME: dict[str, str] = {
    "predict": "batch workers verbose retina_masks",
    "track": "batch workers verbose retina_masks",
    "val": "batch workers verbose retina_masks save",
    "export": "verbose workers",
    "train": "verbose save profile compile pose kobj rle angle auto_augment erasing",
}
