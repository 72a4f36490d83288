"""From the formats asked for to the steps that make them: a DAG whose shared prefixes exist once.

Nothing here runs anything. A step is a value: two steps that are equal are one node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeseg.errors import EdgesegError
from edgeseg.export.deciding import DECISIONS, OBSERVATION, OWN
from edgeseg.export.options import QUANTIZING, ExportOptions, check_options, options_for
from edgeseg.quantize.constraints import Constraints, misfit
from edgeseg.registry import NETWORK, Target, target_by_name, targets
from edgeseg.resources import calib_root

if TYPE_CHECKING:
    from edgeseg.quantize.recipe import Recipe

ALL = "all"


@dataclass(frozen=True)
class Step:
    """One conversion of the plan.

    ``source`` is the step whose artifact it reads, None when it reads the model that was given, which has the format
    ``source_format`` and, an artifact, ``source_precision``. ``options`` are sorted pairs: the target's remaining options.
    ``given`` is the step whose artifact it gets besides: a format that quantizes gets decisions, those get the observation.
    """

    target: Target
    precision: str
    head: str
    imgsz: tuple[int, int]
    batch: int
    options: tuple[tuple[str, Any], ...] = ()
    source: Step | None = None
    source_format: str = NETWORK
    source_precision: str = "fp32"
    given: Step | None = None

    @property
    def format(self) -> str:
        """Name of the format that the step makes."""
        return self.target.name

    @property
    def quantized(self) -> bool:
        """Whether the step quantizes, so that it needs a recipe: it is int8, what it reads is not."""
        reads = self.source_precision if self.source is None else self.source.precision
        return self.precision == "int8" and reads != "int8"

    @property
    def calibrated(self) -> bool:
        """Whether it needs calibration images too: a format whose ``[settings]`` say ``weights_only`` does not."""
        return self.quantized and not self.target.settings.get("weights_only", False)

    @property
    def label(self) -> str:
        """What a person reads: ``tflite int8``, ``onnx fp32 decoded opset=13``."""
        if self.target.name in OWN:
            return " ".join([self.format, *(f"({Constraints.of(v).title})" for _, v in self.options)])
        extra = [f"{k}={v}" for k, v in self.options]
        return " ".join([self.format, self.precision, *(["decoded"] if self.head == "decoded" else []), *extra])

    @property
    def sources(self) -> tuple[Step, ...]:
        """The steps whose artifacts it reads."""
        return tuple(s for s in (self.source, self.given) if s is not None)

    def all(self) -> Iterator[Step]:
        """Every step that it depends on, each after its own sources, and itself last."""
        for source in self.sources:
            yield from source.all()
        yield self

    def chain(self) -> Iterator[Step]:
        """This step and those before it, last first."""
        step: Step | None = self
        while step is not None:
            yield step
            step = step.source


@dataclass(frozen=True)
class Plan:
    """``steps`` in an order in which each follows its source; ``wanted`` are those whose artifacts were asked for."""

    steps: tuple[Step, ...]
    wanted: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    def readers(self, step: Step | None) -> tuple[Step, ...]:
        """The steps that stand below ``step`` (None: the model itself) in a tree of the plan."""
        return tuple(s for s in self.steps if next(iter(s.sources), None) == step)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: nodes with the index of their source (None: the model) and whether they were asked for."""
        index = {s: i for i, s in enumerate(self.steps)}
        nodes = [
            {
                "id": i,
                "format": s.format,
                "precision": s.precision,
                "head": s.head,
                "imgsz": list(s.imgsz),
                "batch": s.batch,
                "options": dict(s.options),
                "source": None if s.source is None else index[s.source],
                "given": None if s.given is None else index[s.given],
                "source_format": s.source_format,
                "wanted": s in self.wanted,
            }
            for s, i in index.items()
        ]
        return {"nodes": nodes, "notes": list(self.notes)}


@dataclass(frozen=True)
class Given:
    """The model that a plan starts from: a checkpoint unless ``format`` says otherwise.

    An artifact has a precision and a head already, and a size and batch unless it is dynamic (None). ``usual`` is the size
    that is taken where nobody says one: that of a network's training.
    """

    format: str = NETWORK
    precision: str | None = None
    head: str | None = None
    imgsz: tuple[int, int] | None = None
    batch: int | None = None
    usual: tuple[int, int] = ExportOptions().size


def make_plan(formats: Sequence[str], options: ExportOptions, given: Given | str = NETWORK) -> Plan:
    """Find the steps that make ``formats``.

    Args:
        formats: names or aliases; ``all`` means every target, each with the options that it takes.
        options: applied to every format asked for.
        given: what the model is, or only its format.

    Raises:
        EdgesegError: unknown format, an option or a recipe that a format does not take, or no way from the source to it.
    """
    given = Given(given) if isinstance(given, str) else given
    if any(f.strip().lower() == ALL for f in formats):
        return _plan_all(options, given)
    if not formats:
        raise EdgesegError("no format was named", hint=f"Formats: {', '.join(targets())}, all")
    wanted = [_wanted(target_by_name(f), options, given) for f in formats]
    return _assemble(wanted, ())


def _plan_all(options: ExportOptions, given: Given) -> Plan:
    wanted, notes = [], []
    used: set[str] = set()
    reasons: list[EdgesegError] = []
    for target in targets().values():
        if target.name == given.format:
            continue
        fitting = _drop_untaken(target, options)
        try:
            wanted.append(_wanted(target, fitting, given))
        except EdgesegError as e:
            notes.append(f"{target.name} left out: {e.what}")
            reasons.append(e)
            continue
        used.update(fitting.given())
        dropped = [k for k in options.given() if k not in fitting.given() and k not in QUANTIZING]
        if dropped:
            how = f"as {target.precisions[0]}" if {"half", "int8"} & set(dropped) else "without"
            notes.append(f"{target.name} does not take {', '.join(dropped)}: exported {how}")
    if not wanted:
        raise reasons[0] if reasons else EdgesegError("there are no targets", hint="Check EDGESEG_TARGETS")
    unused = [k for k in options.given() if k not in used]
    unused = [k for k in unused if k != "data"]
    if unused and all(k in QUANTIZING for k in unused):
        what = f"{', '.join(unused)}: only int8 takes it, and nothing is quantized here"
        raise EdgesegError(what, hint="Leave it out, or add --int8")
    if unused:
        raise EdgesegError(f"no format takes {', '.join(unused)} here", hint=notes[0] if notes else "")
    return _assemble(wanted, tuple(notes))


def _drop_untaken(target: Target, options: ExportOptions) -> ExportOptions:
    """For ``all``: keep what the format takes. Without the precision asked for it is a float format, or is left out."""
    precision = options.precision or target.precisions[0]
    keeps = precision in target.precisions or target.precisions[0] == "int8"
    quantizes = keeps and precision == "int8"
    kept = {}
    for name, value in options.given().items():
        if keeps if name in ("half", "int8") else quantizes if name in QUANTIZING else name in target.options:
            kept[name] = value
    if kept.get("head") not in (None, *target.heads):
        del kept["head"]
        kept.pop("nms", None)
    return ExportOptions.of(**kept)


def _wanted(target: Target, options: ExportOptions, given: Given) -> Step:
    precision = check_options(target, options)
    if options.precision is None and given.precision in target.precisions:
        precision = str(given.precision)
    head = options.head or given.head or ("raw" if "raw" in target.heads else target.heads[0])
    step = _reach(target, precision, head, options, given, ())
    if step is None:
        reads = _sources(target, precision)
        raise EdgesegError(
            f"{target.name} {precision} {head} cannot be made from {_article(given)}: it reads {reads}",
            hint=f"Export from the checkpoint: edgeseg export MODEL.pt --format {target.name}",
        )
    if options.recipe is not None:
        from edgeseg.quantize.recipe import load_recipe

        check_recipe([step], load_recipe(options.recipe))
    return step


def check_recipe(wanted: Iterable[Step], recipe: Recipe) -> None:
    """Raise an ``EdgesegError`` where a step, or what it reads, cannot be quantized by ``recipe``."""
    for step in wanted:
        why = why_not(step, recipe)
        if not why:
            continue
        from edgeseg.quantize.recipe import load_recipe

        built_in = map(load_recipe, sorted(p.stem for p in calib_root().glob("*.toml")))
        hint = f"Try --recipe {', '.join(r.name for r in built_in if not why_not(step, r))}"
        if "fp16" in step.target.precisions:
            hint += "; for half floats, half=True in place of int8"
        what = f"{step.target.title} ({step.format}) cannot be int8 by the recipe {recipe.name}: {why}"
        raise EdgesegError(what, hint=hint)


def why_not(step: Step, recipe: Recipe) -> str:
    """Why a step, or what it reads, cannot be quantized by a recipe; empty where it can."""
    chain = [s for s in step.chain() if s.precision == "int8"]
    limits = (Constraints.from_table(s.target.quantize) for s in chain if any(c.quantized for c in chain))
    return next(filter(None, (misfit(recipe, c) for c in limits)), "")


def _reach(
    target: Target, precision: str, head: str, options: ExportOptions, given: Given, above: tuple[str, ...]
) -> Step | None:
    """The step that makes ``target``, with its sources, by the first of its ``reads`` that leads to the model."""
    if precision not in target.precisions or head not in target.heads:
        return None
    for name in target.reads:
        source: Step | None = None
        wanted = source_precision(target, precision)
        if name == given.format:
            if wanted == "int8" and given.precision not in (None, "int8"):
                continue
        else:
            before = targets().get(name)
            if before is None or name in above or name == target.name:
                continue
            inner = _for_source(before, options)
            source = _reach(before, wanted, head, inner, given, (*above, target.name))
            if source is None:
                continue
        step = Step(
            target,
            precision,
            head,
            given.imgsz or (given.usual if options.imgsz is None else options.size),
            given.batch or options.batch or 1,
            tuple(sorted(options_for(target, options).items())),
            source,
            given.format,
            given.precision or "fp32",
        )
        return replace(step, given=_decisions(step)) if step.quantized and target.quantize else step
    return None


def _decisions(step: Step) -> Step:
    """The step that decides for one that quantizes, by what its target's integers can follow, and the observation before."""
    limits = Constraints.from_table(step.target.quantize, str(step.target.folder / "target.toml"))
    root = Step(OBSERVATION, "int8", "raw", step.imgsz, 1, source_format=step.source_format)
    return replace(root, target=DECISIONS, options=(("constraints", limits.to_json()),), given=root)


def _for_source(before: Target, options: ExportOptions) -> ExportOptions:
    """The options of an intermediate step: those given that its format takes."""
    keep = {k: v for k, v in options.given().items() if k in before.options or k in ("imgsz", "batch")}
    for name in ("half", "int8", "head", "nms"):
        keep.pop(name, None)
    return ExportOptions.of(**keep)


def source_precision(target: Target, precision: str) -> str:
    """The precision of the artifact that a step reads.

    ``[settings] source_precision`` in ``target.toml`` says: one precision, ``same``, or a table by the step's own
    precision. Without it the source is fp32: converters quantize and round for themselves.
    """
    said = target.settings.get("source_precision", "fp32")
    if isinstance(said, Mapping):
        said = said.get(precision, "fp32")
    return precision if said == "same" else str(said)


def _assemble(wanted: Sequence[Step], notes: tuple[str, ...]) -> Plan:
    order: dict[Step, None] = {}
    for step in wanted:
        for s in step.all():
            order.setdefault(s)
    return Plan(tuple(order), tuple(dict.fromkeys(wanted)), notes)


def _article(given: Given) -> str:
    if given.format == NETWORK:
        return "a checkpoint"
    return " ".join(["an artifact of the format", given.format, *([given.precision] if given.precision else [])])


def _sources(target: Target, precision: str) -> str:
    words = ["checkpoints" if name == NETWORK else f"{name} {source_precision(target, precision)}" for name in target.reads]
    return " or ".join(words) or "nothing"
