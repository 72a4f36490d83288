"""``edgeseg board``: the boards of a fleet, and models on all of them over SSH."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseg.cli import console, flags
from edgeseg.cli.bundle import Images, Run
from edgeseg.cli.flags import flag, word
from edgeseg.errors import EdgesegError, StepFailed

if TYPE_CHECKING:
    from edgeseg.fleet.hosts import Host
    from edgeseg.fleet.run import Job

OUT = "runs/fleet"
app = typer.Typer(help="Boards over SSH: add, list, remove, run, report.", no_args_is_help=True, rich_markup_mode="rich")
Out = Annotated[str, flag("Where bundles and reports are kept.", metavar="FOLDER")]


@app.command()
def add(
    name: Annotated[str, word("What to call it.", "NAME")],
    address: Annotated[str, word("As for ssh.", "USER@HOST")],
    board: Annotated[str | None, flag("Its kind: pi5, pi4, pc ...", "asked of it", metavar="NAME")] = None,
    port: Annotated[int, flag("Port of its SSH server.", "ssh's own")] = 0,
    key: Annotated[str, flag("Private key.", "ssh's own", metavar="FILE")] = "",
) -> None:
    """Add a board to fleet.toml in the current folder; it is asked what it is, so it must be on."""
    from dataclasses import replace

    from edgeseg.boards import board_by_name
    from edgeseg.fleet.hosts import Host, read_hosts, write_hosts
    from edgeseg.fleet.probe import probe
    from edgeseg.fleet.ssh import Ssh

    hosts = read_hosts()
    asked = Host(name, address, board_by_name(board).name if board else "pc", "3.11", port, key)
    said = probe(Ssh(asked, timeout_s=60))
    kind = asked.board if board else said.board()
    hosts[name] = replace(asked, board=kind, python=said.python)
    write_hosts(hosts)
    console.say(f"{name}: {said.model or said.machine}, Python {said.python}: {kind}")
    for text in said.warnings():
        console.warn(text)


@app.command("list")
def list_() -> None:
    """The boards of fleet.toml."""
    from edgeseg.fleet.hosts import chosen_hosts

    rows = [(h.name, h.address, h.port or "", h.board, h.python, h.key) for h in chosen_hosts(None)]
    console.table("", ("board", "address", "port", "kind", "python", "key"), rows)


@app.command()
def remove(names: Annotated[list[str], word("Boards.", "NAME...")]) -> None:
    """Remove boards from fleet.toml, and forget their SSH keys."""
    from edgeseg.fleet.hosts import chosen_hosts, read_hosts, write_hosts
    from edgeseg.fleet.ssh import forget

    gone = chosen_hosts(",".join(names))
    for host in gone:
        forget(host)
    write_hosts({name: h for name, h in read_hosts().items() if h not in gone})
    console.say(f"removed: {', '.join(h.name for h in gone)}")


@app.command()
def run(
    models: Annotated[list[str], word("Checkpoints, artifacts, or bundles.", "MODEL...")],
    boards: Annotated[str | None, flag("Only these, with commas.", "all", metavar="A,B")] = None,
    data: flags.Data = None,
    images: Images = None,
    run: Run = "--camera 0",
    runs: Annotated[int, flag("Images timed on each board.")] = 30,
    timeout: Annotated[float, flag("Seconds that one step on a board may take.")] = 1800,
    out: Out = OUT,
    again: Annotated[bool, flag("Measure again what has a report.", True, "--again")] = False,
    json: flags.Json = None,
    html: Annotated[str | None, flag("The page.", "OUT/fleet.html", metavar="FILE")] = None,
) -> None:
    """Copy models to boards, install them there without a network, test and time them, and bring the reports home.

    All boards work at once. The same command again does only what is missing. A board that fails keeps its row with the
    reason, and the exit code is 1.
    """
    from edgeseg.fleet.hosts import chosen_hosts
    from edgeseg.fleet.report import HEADER, cells, write_page
    from edgeseg.fleet.run import run_fleet
    from edgeseg.store import make_folder

    if runs < 1 or timeout <= 0:
        raise EdgesegError("runs and timeout are numbers above 0")
    to, folder = console.people(json), Path(out)
    jobs = _jobs(models, chosen_hosts(boards), folder, data, images, run)
    with console.steps() as line:
        rows = run_fleet(jobs, folder, runs=runs, timeout_s=timeout, again=again, say=line)
    plain = [{"board": r.job.host.name, "bundle": r.job.bundle.name, "report": r.report, "error": r.error} for r in rows]
    console.as_json(json, {"rows": plain})
    page = Path(html) if html else folder / "fleet.html"
    make_folder(page.parent)
    write_page(page, rows)
    if json != "-":
        console.table("", HEADER, [cells(r) for r in rows], to=to)
    console.say(f"page: {page}", to=to)
    for host, job in {r.job.host: r.job for r in rows if r.good}.items():
        line_ = f"ssh -t {f'-p {host.port} ' if host.port else ''}{host.address} sh {job.remote}/install.sh --service"
        console.say(f"as a service on {host.name}: {line_}", to=to)
    if not all(r.good for r in rows):
        raise typer.Exit(1)


@app.command()
def report(
    out: Out = OUT,
    toml: Annotated[bool, flag("As measured lines for boards.toml.", True, "--toml")] = False,
    json: flags.Json = None,
) -> None:
    """What boards reported so far."""
    from edgeseg.fleet.report import HEADER, figures, measured_lines, read_reports

    found = read_reports(Path(out))
    console.as_json(json, found)
    if json == "-":
        return
    if toml:
        console.say(measured_lines(found).rstrip())
        return
    console.table("", HEADER, [(*figures(r), "agrees" if r["passed"] else "DOES NOT AGREE") for r in found])


def _jobs(models: list[str], hosts: list[Host], out: Path, data: str | None, images: str | None, run: str) -> list[Job]:
    """A job for each model and board; bundles are made once for each kind of board and Python, and kept."""
    import tempfile

    from edgeseg.fleet import wheels
    from edgeseg.fleet.bundle import unpack
    from edgeseg.fleet.run import Job
    from edgeseg.fleet.selftest import ABOUT

    found: dict[tuple[str, str, str], Path] = {}
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as scratch:
        own: Path | None = None
        for model in models:
            for host in hosts:
                key = (model, host.board, host.python)
                if key in found:
                    continue
                if (Path(model) / ABOUT).is_file() or model.endswith((".tar.gz", ".tgz")):
                    found[key] = Path(model) if Path(model).is_dir() else unpack(Path(model), out / "bundles")
                    continue
                own = own or wheels.own_wheel(Path(scratch))
                found[key] = _composed(model, host, out / "bundles", own, data, images, run)
    for (model, _, _), place in found.items():
        others = [m for (m, _, _), p in found.items() if p == place and m != model]
        if others:
            raise EdgesegError(f"its bundle has the name of that of {others[0]}", path=model, hint="Rename one of them")
    return [Job(host, found[model, host.board, host.python]) for host in hosts for model in models]


def milliseconds_on(name: str) -> Callable[[Path], float]:
    """What gives the median milliseconds of inference of an artifact on a board: bundled, installed and timed there.

    Raises:
        EdgesegError: no such board; later, of what is called: whatever went wrong on the board.
    """
    from edgeseg.fleet.hosts import chosen_hosts
    from edgeseg.fleet.run import run_fleet

    (host,) = chosen_hosts(name)

    def measure(artifact: Path) -> float:
        place = artifact.parent / f"{artifact.name}.{host.name}"
        with console.steps() as line:
            (row,) = run_fleet(_jobs([str(artifact)], [host], place, None, None, "--camera 0"), place, say=line)
        if row.report is None:
            raise StepFailed(f"{host.name}: {row.step}: {row.error}", path=artifact)
        return float(row.report["ms"]["inference"])

    return measure


def _composed(model: str, host: Host, out: Path, own: Path, data: str | None, images: str | None, run: str) -> Path:
    """The bundle of a model for a board: the one that is there, if it is what would be made, else a new one."""
    from edgeseg.boards import board_by_name
    from edgeseg.fleet.bundle import compose, order
    from edgeseg.fleet.ready import artifact_for, images_for
    from edgeseg.fleet.selftest import ABOUT

    device = board_by_name(host.board)
    with console.shown_events() as on_event:
        artifact = artifact_for(model, device, data, on_event)
    wish = order(artifact, device, python=host.python, images=images_for(artifact, images or data), run=run)
    place = out / wish.name
    try:
        if json_module.loads((place / ABOUT).read_text(encoding="utf-8"))["key"] == wish.key(own):
            return place
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with console.progress(f"bundle {wish.name}"):
        return compose(wish, place, own=own, say=lambda text: console.note(f"{wish.name}: {text}"))
