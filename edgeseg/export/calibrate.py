"""What a quantized step is given: the recipe and the calibration images, chosen once and remembered while the data stay."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg import store
from edgeseg.export import cache
from edgeseg.export.options import ExportOptions
from edgeseg.hashing import sha256_json
from edgeseg.resources import cache_root

if TYPE_CHECKING:
    from edgeseg.data.dataset import Dataset
    from edgeseg.quantize.calibration import CalibrationSet
    from edgeseg.quantize.recipe import Recipe

DEFAULT_DATA = "coco128-seg"
DEFAULT_RECIPE = "int8"


@dataclass(frozen=True)
class Calibration:
    """What quantized steps need. ``info`` goes into the manifest; its ``hash`` and ``recipe`` go into the key.

    A recipe that quantizes weights only needs no images: ``images`` is empty then, and ``info`` None.
    """

    images: tuple[Path, ...]
    info: Mapping[str, Any] | None
    recipe: Mapping[str, Any]

    @property
    def observes(self) -> bool:
        """Whether decisions start from what is seen on the images; ranges that training learned need none."""
        return bool(self.images) and not self.recipe.get("learned")

    def observation(self) -> Calibration:
        """What of it an observation depends on: not the rules of the recipe, so that recipes share one."""
        weights = {"equalization": self.recipe["weights"]["equalization"]}
        correction = {"images": self.recipe["correction"]["images"]}
        return replace(self, recipe={"name": "observation", "weights": weights, "correction": correction})

    def key(self) -> list[Any]:
        """What it contributes to the key of an artifact."""
        return [self.info and self.info.get("hash"), self.recipe]


def choose_calibration(
    options: ExportOptions, say: Callable[[str], None], pictures: bool = True, checkpoint: Path | None = None
) -> Calibration:
    """The images and the recipe of an int8 export.

    Args:
        options: ``data``, ``recipe``, ``images`` and ``seed`` count here.
        say: called with each warning.
        pictures: whether any of the formats needs images: one that quantizes weights only does not.
        checkpoint: the network to be exported. One that was trained through rounding brings the recipe that it was trained
            for, with the ranges that it learned.

    Raises:
        EdgesegError: no such dataset or recipe, or no usable images.
    """
    from edgeseg.data.dataset import load_dataset
    from edgeseg.quantize.recipe import load_recipe

    recipe = _with_learned(None if options.recipe is None else load_recipe(options.recipe), checkpoint, say)
    if not pictures:
        return Calibration((), None, recipe.to_dict())
    if not recipe.calibrated:
        if options.data is not None:
            say(f"the recipe {recipe.name} quantizes weights only: the images of {options.data} are not used")
        return Calibration((), None, recipe.to_dict())
    if options.data is None:
        say(f"calibrated on {DEFAULT_DATA}; your own images serve better: data=YOUR.yaml")
    dataset = load_dataset(options.data or DEFAULT_DATA)
    chosen = _choose(dataset, options.images or recipe.images, options.seed or 0)
    for warning in chosen.warnings:
        say(warning)
    info = {"hash": chosen.hash, "images": len(chosen.images), "source": str(chosen.source)}
    return Calibration(tuple(p.resolve() for p in chosen.images), info, recipe.to_dict())


def _with_learned(recipe: Recipe | None, checkpoint: Path | None, say: Callable[[str], None]) -> Recipe:
    """The recipe (None: the one that the network was trained for, else the default) with what the network learned."""
    from edgeseg.quantize.learned import learned_of
    from edgeseg.quantize.recipe import Recipe, load_recipe

    qat = learned_by(checkpoint) if checkpoint is not None else {}
    if not qat:
        return recipe or load_recipe(DEFAULT_RECIPE)
    trained = Recipe.from_dict(qat["recipe"])
    if recipe is not None and not recipe.same_rules(trained):
        say(f"the network was trained for the recipe {trained.name}, not {recipe.name}: its learned ranges are not used")
        return recipe
    return replace(recipe or trained, learned=learned_of(qat))


def learned_by(checkpoint: Path) -> Mapping[str, Any]:
    """What quantization-aware training left in a checkpoint's ``info["qat"]``, {} where there was none.

    Raises:
        EdgesegError: it cannot be read.
    """
    # Most checkpoints were not trained so; a look at the pickle spares them the import of torch.
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(checkpoint) as file:
        stored = (i for i in file.infolist() if i.filename.endswith("/data.pkl") and i.compress_type == zipfile.ZIP_STORED)
        if not any(b"qat" in file.read(i) for i in stored):
            return {}
        from edgeseg.network.checkpoint import load_checkpoint

        found: Mapping[str, Any] = load_checkpoint(checkpoint).info.get("qat") or {}
        return found
    return {}


def _choose(dataset: Dataset, count: int, seed: int) -> CalibrationSet:
    """``choose`` looks at every picture; while no file of the dataset changes, its answer holds."""
    from edgeseg.quantize.calibration import CalibrationSet, choose

    train = dataset.images("train")
    files = [*train, *(dataset.label_path(p) for p in train), *(dataset.images("val") if "val" in dataset.splits else ())]
    state = [str(dataset.yaml), dataset.named, len(dataset.names), count, seed, cache.core_hash(True), _stamp(files)]
    note = cache_root() / "calibrations" / f"{sha256_json(state)[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text(encoding="utf-8"))
        images = tuple(Path(p) for p in known["images"])
        return CalibrationSet(images, str(known["hash"]), Path(known["source"]), tuple(known["warnings"]))
    chosen = choose(dataset, count, seed=seed)
    store.make_folder(note.parent)
    values = {"images": list(map(str, chosen.images)), "source": str(chosen.source)}
    store.write_atomically(note, json.dumps({**values, "hash": chosen.hash, "warnings": chosen.warnings}))
    return chosen


def _stamp(files: Iterable[Path]) -> str:
    rows: list[Any] = []
    for file in files:
        try:
            stat = file.stat()
            rows.append([str(file), stat.st_size, stat.st_mtime_ns])
        except OSError:
            rows.append([str(file)])
    return sha256_json(rows)
