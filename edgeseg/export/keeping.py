"""Decisions in a file of the user's: taken from it where they are there, written into it where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import EdgesegError
from edgeseg.export.calibrate import Calibration
from edgeseg.export.deciding import DECISIONS
from edgeseg.hashing import sha256_json

if TYPE_CHECKING:
    from edgeseg.export.options import ExportOptions
    from edgeseg.export.performing import Outcome
    from edgeseg.export.plan import Plan, Step
    from edgeseg.quantize.carried import Carried


class Kept:
    """The file, as it was before the export.

    Args:
        path: it need not be there yet.
        plan: what is to be exported.
        network: SHA-256 of the model.

    Raises:
        EdgesegError: nothing in the plan is decided, or the file was decided for another network or size.
    """

    def __init__(self, path: Path, plan: Plan, network: str) -> None:
        from edgeseg.quantize.carried import load

        self.path = path
        wanted = [s for s in plan.steps if s.target is DECISIONS]
        if not wanted:
            raise EdgesegError("no format here takes decisions: nothing is quantized", path=path, hint="Add --int8")
        self._held = {c.constraints.to_json(): c for c in (load(path) if path.exists() else ())}
        for carried in self._held.values():
            size = f"{carried.about['imgsz'][1]}x{carried.about['imgsz'][0]}"
            if carried.about.get("network") != network:
                raise EdgesegError("it was decided for another network", path=path, hint="Name a new file for this one")
            if tuple(carried.about["imgsz"]) != wanted[0].imgsz:
                raise EdgesegError(f"it was decided for {size} pixels", path=path, hint="Name a new file for another size")
        self._complete = all(self.find(s) is not None for s in wanted)

    def find(self, step: Step) -> Carried | None:
        """The decisions that a step would make, if they are in the file."""
        return self._held.get(dict(step.options)["constraints"]) if step.target is DECISIONS else None

    def key(self, step: Step) -> str:
        """What stands for the content of these decisions in the key of an artifact; empty without any."""
        found = self.find(step)
        return sha256_json(found.to_dict()) if found is not None else ""

    def calibration(self, options: ExportOptions) -> Calibration | None:
        """What the decisions were made with, where none is missing: no image is looked at then.

        Raises:
            EdgesegError: a recipe was given, and it is not the one of the file.
        """
        from edgeseg.quantize.recipe import load_recipe

        carried = next(iter(self._held.values()), None)
        if carried is None:
            return None
        if options.recipe is not None and not load_recipe(options.recipe).same_rules(carried.recipe):
            what = f"it was decided by the recipe {carried.recipe.name}, not by {options.recipe}"
            raise EdgesegError(what, path=self.path, hint="Leave the recipe out, or name a new file")
        recipe = carried.recipe.to_dict()
        return Calibration((), carried.about.get("calibration"), recipe) if self._complete else None

    def add(self, outcomes: dict[Step, Outcome]) -> None:
        """Write the file with what was decided in this export."""
        from edgeseg.quantize.carried import load, save

        made = [load(o.entry.path)[0] for s, o in outcomes.items() if s.target is DECISIONS and o.entry is not None]
        new = {c.constraints.to_json(): c for c in made}
        if set(new) - set(self._held):
            save(self.path, [*{**self._held, **new}.values()])
