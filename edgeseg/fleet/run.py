"""Bundles to boards, all boards at once: copy, install, self-test, and the reports home. What is done is not done again."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg import store
from edgeseg.errors import EdgesegError
from edgeseg.fleet.hosts import Host
from edgeseg.fleet.selftest import REPORT, SUMS, read_about
from edgeseg.fleet.ssh import BoardFailed, Ssh

REMOTE = "edgeseg-bundles"
Say = Callable[[str, float, str], None]


@dataclass(frozen=True)
class Job:
    """One bundle (its folder) for one board."""

    host: Host
    bundle: Path

    @property
    def digest(self) -> str:
        """SHA-256 of the list of its files' hashes."""
        return hashlib.sha256((self.bundle / SUMS).read_bytes()).hexdigest()

    @property
    def remote(self) -> str:
        """Where it lies on the board, below the home folder."""
        return f"{REMOTE}/{self.bundle.name}-{self.digest[:12]}"


@dataclass(frozen=True)
class Row:
    """What became of a job: a report, new or kept from before, or the step that failed and why."""

    job: Job
    report: dict[str, Any] | None = None
    kept: bool = False
    step: str = ""
    error: str = ""

    @property
    def good(self) -> bool:
        """Whether the board found what it must."""
        return self.report is not None and bool(self.report["passed"])


def run_fleet(
    jobs: Sequence[Job],
    out: Path,
    *,
    runs: int = 30,
    timeout_s: float = 1800,
    again: bool = False,
    say: Say = lambda name, done, words: None,
) -> list[Row]:
    """Do all jobs, those of one board one after the other, boards side by side; rows in the order of the jobs.

    Args:
        jobs: bundles for boards.
        out: where reports go, ``<out>/<board>/<bundle>.json``; what is there of the same bundle is kept.
        runs: images timed in a self-test.
        timeout_s: how long one step on a board may take.
        again: keep nothing: measure again.
        say: called with (board, share done 0..1, words).
    """
    by_host: dict[str, list[Job]] = {}
    for job in jobs:
        by_host.setdefault(job.host.name, []).append(job)
    lines = {name: Ssh(mine[0].host, timeout_s) for name, mine in by_host.items()}

    def work(name: str) -> list[Row]:
        return [_one(job, lines[name], out, runs, again, say) for job in by_host[name]]

    with ThreadPoolExecutor(max(1, len(by_host))) as pool:
        futures = {pool.submit(work, name): name for name in by_host}
        try:
            todo: set[Future[list[Row]]] = set(futures)
            while todo:  # wakes up now and then, so that Ctrl-C is heard everywhere
                _, todo = wait(todo, timeout=0.5, return_when=FIRST_COMPLETED)
        except BaseException:
            for line in lines.values():
                line.stop()
            raise
    found = {(row.job.host.name, row.job.bundle): row for future in futures for row in future.result()}
    return [found[job.host.name, job.bundle] for job in jobs]


def report_file(out: Path, job: Job) -> Path:
    """Where the report of a job is kept."""
    return out / job.host.name / f"{job.bundle.name}.json"


def kept_report(out: Path, job: Job) -> dict[str, Any] | None:
    """The report of exactly this bundle from an earlier run, if there is one."""
    try:
        report = json.loads(report_file(out, job).read_text(encoding="utf-8"))
        return report if report["digest"] == job.digest and "passed" in report else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _one(job: Job, line: Ssh, out: Path, runs: int, again: bool, say: Say) -> Row:
    step = "looking"

    def tell(done: float, words: str) -> None:
        nonlocal step
        step = words.partition(" ")[0]
        say(f"{job.host.name} {job.bundle.name}", done, words)

    try:
        known = None if again else kept_report(out, job)
        if known is not None:
            tell(1, "has its report")
            return Row(job, known, kept=True)
        _check(job)
        tell(0.02, "looking what is there")
        _copy(job, line, tell)
        tell(0.5, "installing")
        line.run(f"cd {job.remote} && sh install.sh")
        tell(0.8, "testing")
        # A test that does not agree has a report all the same.
        line.run(f"cd {job.remote} && rm -f {REPORT} && {{ sh selftest.sh --runs {runs} || [ -e {REPORT} ]; }}")
        report = _report(job, line)
        report |= {"digest": job.digest, "host": job.host.name, "kind": job.host.board}
        file = report_file(out, job)
        store.make_folder(file.parent)
        store.write_atomically(file, json.dumps(report, indent=1) + "\n")
        tell(1, "agrees" if report["passed"] else "does NOT agree")
        return Row(job, report)
    except (EdgesegError, OSError) as e:
        failed, why = step, str(e) or type(e).__name__
        tell(1, f"failed: {why}")
        return Row(job, step=failed, error=why)


def _check(job: Job) -> None:
    """That the bundle is for the board's Python, as far as it is known here."""
    about = read_about(job.bundle)
    if about["python"] != job.host.python:
        hint = f"edgeseg bundle MODEL --board {job.host.board} --python {job.host.python}"
        raise BoardFailed(f"the bundle is for Python {about['python']}, {job.host.name} has {job.host.python}", hint=hint)


def _copy(job: Job, line: Ssh, tell: Callable[[float, str], None]) -> None:
    """Send the files that are missing or differ there, and see by their hashes that all arrived."""
    own = f"{job.digest}  {SUMS}\n"
    sums = (job.bundle / SUMS).read_text(encoding="utf-8") + own
    known = {s.partition("  ")[2] for s in sums.splitlines()}

    def lacking() -> list[str]:
        place = shlex.quote(job.remote)
        look = f"mkdir -p {place} && cd {place} && {{ LC_ALL=C sha256sum -c - 2>/dev/null; echo end; }}"
        said = line.run(look, give=sums.encode())
        good = {s.removesuffix(": OK") for s in said.splitlines() if s.endswith(": OK")}
        return sorted(known - good)

    missing = lacking()
    if not missing:
        return
    total, done = sum((job.bundle / n).stat().st_size for n in missing), 0

    def sent(size: int) -> None:
        nonlocal done
        done += size
        tell(0.05 + 0.4 * done / max(1, total), f"copying {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    tell(0.05, f"copying {len(missing)} of {len(known)} files")
    line.send(job.bundle, missing, shlex.quote(job.remote), sent)
    left = lacking()
    if left:
        raise BoardFailed(f"{len(left)} files did not arrive whole ({left[0]})", hint="Is the board's disk full?")


def _report(job: Job, line: Ssh) -> dict[str, Any]:
    text = line.run(f"cat {job.remote}/{REPORT}")
    try:
        report: dict[str, Any] = json.loads(text)
        if report["key"] != read_about(job.bundle)["key"]:
            raise ValueError("it is of another bundle")
        return report
    except (ValueError, KeyError, TypeError) as e:
        raise BoardFailed(f"its report cannot be read ({e})") from e
