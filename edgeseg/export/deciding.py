"""The steps of the graph that belong to no format: the network observed once, and decisions once for each kind of integers.

They read the model itself, whatever the formats are made from, and run in a process of their own like any conversion.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.hashing import content_hash
from edgeseg.registry import NETWORK, Target, target_by_name
from edgeseg.resources import PACKAGE

if TYPE_CHECKING:
    from edgeseg.export.job import Job
    from edgeseg.quantize.carried import Carried
    from edgeseg.quantize.flow import Flow
    from edgeseg.quantize.recipe import Recipe

_FOLDER = PACKAGE / "quantize"
# Everything that is quantized waits for the observation, so it gets every core.
OBSERVATION = Target("observation", "Observation", _FOLDER, ".npz", (), ("int8",), settings={"all_cores": True})
DECISIONS = Target("decisions", "Decisions", _FOLDER, ".json", (), ("int8",), settings={"all_cores": True})
OWN = {t.name: t for t in (OBSERVATION, DECISIONS)}


def convert(job: Job) -> None:
    """Write ``job.output``: what was observed (``.npz``), or decisions (``.json``; ``job.options["constraints"]``).

    Raises:
        EdgesegError: the model cannot be read, an operator is not known, or there are no images where some are needed.
    """
    from edgeseg.quantize.carried import save
    from edgeseg.quantize.recipe import Recipe, load_recipe

    job.progress(0.02, "reading the network")
    recipe = load_recipe("int8") if job.recipe is None else Recipe.from_dict(job.recipe)
    flow = read(job.source, job.source_format, job.imgsz)
    if job.format == OBSERVATION.name:
        from edgeseg.quantize.decide import look

        look(flow, recipe, job.calibration, job.imgsz, lambda d, what: job.progress(0.1 + 0.9 * d, what)).save(job.output)
        return
    save(job.output, [decided(job, flow, recipe)])


def decided(job: Job, flow: Flow, recipe: Recipe) -> Carried:
    """The decisions of a job for the network ``flow``."""
    from edgeseg.quantize.carried import carry
    from edgeseg.quantize.constraints import Constraints
    from edgeseg.quantize.decide import decide
    from edgeseg.quantize.observe import Observed

    constraints = Constraints.of(job.options["constraints"])
    observed = None if job.given is None else lambda: Observed.load(job.awaited())
    say = lambda d, what: job.progress(0.1 + 0.85 * d, what)  # noqa: E731
    made = decide(flow, recipe, job.calibration, job.imgsz, say, constraints=constraints, observed=observed)
    network, images = content_hash(job.source), job.calibration_info
    return carry(flow, made, recipe, constraints, job.imgsz, network=network, calibration=images)


def read(source: Path, source_format: str, imgsz: tuple[int, int]) -> Flow:
    """The network of a checkpoint, or of an artifact whose format can be read as a ``Flow`` (``flow.py`` of its target)."""
    if source_format != NETWORK:
        flow: Flow = target_by_name(source_format).load("flow").read(source, imgsz)
        return flow
    from edgeseg.network.checkpoint import load_checkpoint
    from edgeseg.network.flow import network_flow

    return network_flow(load_checkpoint(source), imgsz)
