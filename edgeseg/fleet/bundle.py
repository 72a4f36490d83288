"""A bundle: one folder that installs, proves and runs a model on a board that has no network."""

from __future__ import annotations

import gzip
import json
import platform as host
import re
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgeseg.decoders
from edgeseg import __version__, store
from edgeseg.boards import Board
from edgeseg.errors import EdgesegError
from edgeseg.fleet import wheels
from edgeseg.fleet.cases import FOLDER, write_cases
from edgeseg.fleet.selftest import ABOUT, SUMS, read_about
from edgeseg.fleet.wheels import Platform, platform_of
from edgeseg.hashing import content_hash, sha256_file, sha256_json
from edgeseg.registry import Target, target_by_path
from edgeseg.running.open import is_checkpoint, open_model

if TYPE_CHECKING:
    import numpy as np

    from edgeseg.running.open import Opened

FILES = Path(__file__).parent / "files"
CONF, LEAST_AGREEMENT, IMAGES, MOST_SIDE = 0.25, 0.95, 4, 1920
RUN = "--camera 0"
ARCHIVES = (".tar.gz", ".tgz")
# Options of the loop that need an extra of their own.
NEEDS = {"--page": "page", "--mqtt": "mqtt"}


@dataclass(frozen=True)
class Order:
    """What a bundle is made of.

    ``model`` is an artifact that runs here; ``images`` are pictures for the self-test (None: generated shapes); ``run`` the
    options of the loop on the board.
    """

    model: Path
    board: Board
    platform: Platform
    images: tuple[Path, ...] | None = None
    run: str = RUN

    @property
    def name(self) -> str:
        """Of the folder: the model, its format, the board, its Python."""
        target = _target(self.model)
        python = self.platform.python.replace(".", "")
        return f"{_safe(target.stem(self.model))}-{target.name}-{self.board.name}-py{python}"

    def key(self, own: Path) -> str:
        """SHA-256 of everything that makes the bundle what it is; ``own`` is edgeseg's wheel."""
        images = None if self.images is None else [content_hash(p) for p in self.images]
        parts = [content_hash(self.model), self.model.name, self.board.name, self.platform.options(), images, self.run]
        return sha256_json([*parts, sha256_file(own)])


def order(
    model: Path,
    board: Board,
    *,
    python: str | None = None,
    images: Sequence[Path] | None = None,
    run: str = RUN,
) -> Order:
    """An order that can be carried out, but for what only doing it tells.

    Raises:
        EdgesegError: no such file, edgeseg does not run on the board, or ``run`` cannot be read.
    """
    if not model.exists():
        raise EdgesegError("no such file or folder", path=model, hint="Make it with: edgeseg export")
    if is_checkpoint(model):
        raise EdgesegError("this is a network, and boards run artifacts", path=model, hint="Make one with: edgeseg export")
    _target(model)
    try:
        shlex.split(run)
    except ValueError as e:
        raise EdgesegError(f"the options {run!r} cannot be read ({e})") from e
    if "'" in run or "\n" in run or "%" in run:
        raise EdgesegError(
            f"the options {run!r} have a quote, a percent sign or a line's end", hint="Write them into run.sh"
        )
    chosen = None if images is None else tuple(images)
    return Order(model, board, platform_of(board, python), chosen, run)


def _target(model: Path) -> Target:
    found = target_by_path(model)
    if found is None:
        raise EdgesegError("no known format has this suffix", path=model, hint="Make an artifact with: edgeseg export")
    return found


def _safe(name: str) -> str:
    """A file's name that needs no quotes anywhere."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def compose(
    wish: Order, place: Path, *, own: Path | None = None, packages: Path | None = None, say: Callable[[str], None] = print
) -> Path:
    """Make the bundle at ``place``: a folder, or an archive where its name ends in ``.tar.gz``.

    Args:
        own: edgeseg's wheel; None: made.
        packages: a folder with all wheels that the bundle gets; None: downloaded.
        say: called with a line for each part.

    Raises:
        EdgesegError: the model does not run here or finds nothing in the images, a package cannot be had, or ``place``
            holds something that is no bundle.
    """
    archive = place.name.endswith(ARCHIVES)
    if place.exists() and (place.is_dir() if archive else not (place / ABOUT).is_file()):
        raise EdgesegError("this is in the way and no bundle", path=place, hint="Name another place: --out")
    store.make_folder(place.parent)
    try:
        with tempfile.TemporaryDirectory(prefix="edgeseg-") as scratch:
            own = own or wheels.own_wheel(Path(scratch))
            if not archive:
                with store.making(place) as folder:
                    _fill(folder, wish, own, packages, say)
            else:
                folder = Path(scratch) / wish.name
                folder.mkdir()
                _fill(folder, wish, own, packages, say)
                pack(folder, place)
    except OSError as e:
        raise store.disk_error(e, place) from e
    return place


def _fill(folder: Path, wish: Order, own: Path, packages: Path | None, say: Callable[[str], None]) -> None:
    with open_model(wish.model) as opened:
        target = _target(wish.model)
        kit = target.is_kit(wish.model)
        extra = target.kit_extra if kit else target.extra
        extras = {e for e in [extra, *(e for word, e in NEEDS.items() if word in shlex.split(wish.run))] if e}
        say(f"self-test: what {opened.title} finds here")
        count, images = _selftest(folder / FOLDER, opened, wish)
        built = _built(wish, target.stem(wish.model) + target.suffix) if kit else ""
        about: dict[str, Any] = {
            "schema": 1,
            "name": wish.name,
            "key": wish.key(own),
            "board": wish.board.name,
            "machine": wish.platform.machine,
            "python": wish.platform.python,
            "edgeseg": __version__,
            "model": {
                "path": _safe(wish.model.name),
                "format": opened.manifest.format,
                "precision": opened.manifest.precision,
                "imgsz": list(opened.manifest.imgsz),
                "task": opened.manifest.task,
                "size": opened.size,
                "sha256": content_hash(wish.model),
            },
            "built": built,
            "run": wish.run,
            "conf": CONF,
            "least_agreement": LEAST_AGREEMENT,
            "images": images,
            "expected": count,
            "made_on": f"{host.machine()}, Python {host.python_version()}",
        }
    say(f"packages for {wish.platform.machine}, Python {wish.platform.python}")
    (folder / "wheels").mkdir()
    if packages is None:
        wheels.gather(folder / "wheels", own, extras, wish.platform)
    else:
        shutil.copytree(packages, folder / "wheels", dirs_exist_ok=True)
    (folder / "requirements.txt").write_text(wheels.lock(folder / "wheels", extras), encoding="utf-8")
    _model(folder, wish.model)
    _scripts(folder, about, wish)
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    sums = [f"{sha256_file(f)}  {f.relative_to(folder).as_posix()}\n" for f in files]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")


def _built(wish: Order, name: str) -> str:
    """Where the board's own artifact will lie, for a kit on a board that builds it."""
    script = wish.model / wish.board.build
    return f"{_safe(wish.model.name)}/{_safe(name)}" if wish.board.build and script.is_file() else ""


def _selftest(folder: Path, opened: Opened, wish: Order) -> tuple[int, int]:
    """Write the cases; how many detections they hold, in how many images."""
    chosen = _spread(wish.images) if wish.images is not None else _shapes(max(opened.manifest.imgsz))
    count = write_cases(folder, opened.pipeline(conf=CONF), chosen)
    if not count:
        what = f"the model finds nothing in the {len(chosen)} images of the self-test, which would prove nothing"
        raise EdgesegError(what, path=wish.model, hint="Give pictures with something to find: --images FOLDER")
    return count, len(chosen)


def _spread(paths: Sequence[Path]) -> list[np.ndarray]:
    """Up to ``IMAGES`` pictures, spread over the list, none larger than ``MOST_SIDE``."""
    from edgeseg.data.images import read_image, reduced

    step = max(1, len(paths) // IMAGES)
    return [reduced(read_image(p), MOST_SIDE) for p in paths[::step][:IMAGES]]


def _shapes(side: int) -> list[np.ndarray]:
    from edgeseg.data.shapes import shapes_image

    return [shapes_image((7, i), max(32, side))[0] for i in range(IMAGES)]


def _model(folder: Path, model: Path) -> None:
    """The artifact, and the metadata beside it."""
    if model.is_dir():
        shutil.copytree(model, folder / _safe(model.name))
    else:
        shutil.copy2(model, folder / _safe(model.name))
    beside = model.with_name(model.name + ".yaml")
    if beside.is_file():
        shutil.copy2(beside, folder / _safe(beside.name))


def _scripts(folder: Path, about: dict[str, Any], wish: Order) -> None:
    """Scripts, unit and README with this bundle's words in them, and the decoders."""
    model = about["model"]
    kit = "" if not (wish.model.is_dir() and about["built"]) else f"{model['path']}/{wish.board.build}"
    note = ""
    if kit:
        note = (
            f"`install.sh` builds `{about['built']}` with the board's own packages; until then the kit stands in for it.\n"
        )
    words = {key.upper(): value for key, value in {**model, **about}.items()}
    words |= {"MODEL": model["path"], "IMGSZ": "x".join(str(n) for n in model["imgsz"]), "TITLE": wish.board.title}
    words |= {"CASES": about["images"], "BUILD": kit, "NOTE": note}
    for file in sorted(FILES.iterdir()):
        text = file.read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(f"@{word}@", str(value))
        (folder / file.name).write_text(text, encoding="utf-8", newline="\n")
    for file in folder.glob("*.sh"):
        file.chmod(0o755)
    source = Path(next(iter(edgeseg.decoders.__path__)))
    if any(p.is_file() for kind in ("cpp", "js") for p in (source / kind).rglob("*")):
        shutil.copytree(source, folder / "decoders", ignore=shutil.ignore_patterns("__pycache__", "*.py"))


def pack(folder: Path, place: Path) -> None:
    """The folder as an archive, byte for byte the same for the same files."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
        return info

    with (
        store.writing(place) as file,
        gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="", compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        tar.add(folder, folder.name, recursive=False, filter=plain)
        for path in sorted(folder.rglob("*")):
            tar.add(path, f"{folder.name}/{path.relative_to(folder).as_posix()}", recursive=False, filter=plain)


def unpack(archive: Path, out: Path) -> Path:
    """The folder of a packed bundle, below ``out``; what is there under its name is replaced.

    Raises:
        EdgesegError: it is no bundle, or has members that lead elsewhere.
    """
    store.make_folder(out)
    try:
        with tarfile.open(archive, "r:gz") as tar, store.staging(out / "unpacked") as part:
            members = tar.getmembers()
            for m in members:
                if not (m.isfile() or m.isdir()) or m.name.startswith("/") or ".." in Path(m.name).parts:
                    raise EdgesegError(f"the archive has a member {m.name!r}", path=archive, hint="Make it again")
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # lacking in the first releases of Python 3.10
            tar.extractall(part, members)
            (folder,) = part.iterdir()
            read_about(folder)
            store.put(folder, out / folder.name)
            return out / folder.name
    except (OSError, ValueError, EOFError, tarfile.TarError) as e:
        raise EdgesegError(f"this is no bundle ({e})", path=archive, hint="Make it again: edgeseg bundle") from e
