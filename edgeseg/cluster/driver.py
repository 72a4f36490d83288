"""The driver's end of a Ray cluster: jobs of the graph and images of a validation sent out, their results in order.

Ray places what runs and runs it again where a node dies. A job travels as an archive of what it reads, its artifact comes
back the same way: nodes share nothing with the driver but the versions of edgeseg, of Python and of a format's packages.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from edgeseg.cluster import node
from edgeseg.data.images import image_bytes
from edgeseg.environments.process import Ended
from edgeseg.environments.toolchains import toolchain_of
from edgeseg.errors import EdgesegError, StepFailed, attempted
from edgeseg.evaluate.metrics import Told
from edgeseg.evaluate.parity import Seen, Verdict, concluded
from edgeseg.evaluate.truth import Truth
from edgeseg.export.cache import link_or_copy, scratch
from edgeseg.export.performing import Task, target_of
from edgeseg.kernel import cores
from edgeseg.running.open import Opened, is_checkpoint

LOCAL = "local"
BATCH, AHEAD, SHARD = 8, 2, 32
"""Images that a worker is given at once, how many such batches each has before it, and images of a comparison at once."""
THREADS = 4
"""Threads of a worker's runtime at most: more do not make a small network faster."""
RETRIES = 3


class Cluster:
    """A connection to a cluster; leave its ``with`` block when it is done with.

    Args:
        address: ``local`` starts one of this machine's cores, which ends with the block; else that of a running one, as
            ``ray.init`` takes it (``auto``, ``HOST:6379``, ``ray://HOST:10001``).

    Attributes:
        cores: of the largest node. slots: how many jobs run at once.

    Raises:
        EdgesegError: Ray is not installed, nothing answers there, or a node has other versions than this machine.
    """

    def __init__(self, address: str) -> None:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        if address == LOCAL:  # else its workers yield to everything else on the machine
            os.environ.setdefault("RAY_worker_niceness", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            with _quiet():
                ray: Any = importlib.import_module("ray")
        except ImportError as e:
            raise EdgesegError("--ray needs Ray", hint='pip install "edgeseg[ray]"') from e
        self.ray = ray
        where: dict[str, Any] = (
            {"num_cpus": cores(), "include_dashboard": False} if address == LOCAL else {"address": address}
        )
        try:
            with _quiet():
                ray.init(**where, log_to_driver=False, logging_level="ERROR")
        except Exception as e:
            what = f"no Ray cluster answers at {address} ({str(e).splitlines()[0][:200]})"
            raise EdgesegError(what, hint="Start one: ray start --head") from e
        nodes = [n for n in ray.nodes() if n["Alive"]]
        counts = [int(n["Resources"].get("CPU", 0)) for n in nodes]
        self.cores: int | None = max(counts)
        self.slots: int | None = sum(max(2, c // 2) if c > 1 else c for c in counts)
        self._memory = max(int(n["Resources"].get("memory", 0)) for n in nodes)
        self._perform = ray.remote(max_retries=RETRIES)(_perform)
        self._pictures: dict[tuple[Path, ...], Any] = {}
        self._heard: dict[str, Callable[[float, str], None]] = {}
        try:
            self._alike([n["NodeID"] for n, c in zip(nodes, counts) if c])
            self._progress = ray.remote(num_cpus=0, max_concurrency=1000)(_Progress).remote()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self.ray.shutdown()

    def _alike(self, nodes: Sequence[str]) -> None:
        """Refuse a cluster whose nodes would make other artifacts than this machine."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        ask, mine = self.ray.remote(num_cpus=0)(node.facts), node.facts()
        asked = [ask.options(scheduling_strategy=On(n, soft=False)).remote() for n in nodes]
        for name, ref in zip(nodes, asked):
            try:
                theirs = self.ray.get(ref, timeout=120)
            except Exception as e:
                first = str(e).strip().splitlines()[-1][:200]
                hint = "Install the same edgeseg there, with its export extra"
                raise EdgesegError(f"node {name[:8]} cannot run edgeseg ({first})", hint=hint) from e
            other = next((k for k in mine if mine[k] != theirs.get(k)), None)
            if other is not None:
                what = f"node {name[:8]} has {other} {theirs.get(other)}, this machine {mine[other]}"
                raise EdgesegError(what, hint="Install the same version on every node")

    def __call__(self, task: Task, progress: Callable[[float, str], None], cancelled: threading.Event) -> tuple[Ended, str]:
        """Run a job on some node; see ``edgeseg.export.performing.Performer``."""
        ray, job, mark = self.ray, task.job, uuid.uuid4().hex
        if not job.source.is_relative_to(task.place):
            link_or_copy(job.source, task.place / "source" / job.source.name)
            job = replace(job, source=task.place / "source" / job.source.name)
        names = tuple(f"{i:06d}-{p.name}" for i, p in enumerate(job.calibration))
        pins = node.pins(toolchain_of(target_of(job)))
        text, date = replace(job, calibration=()).to_json(), os.environ.get("SOURCE_DATE_EPOCH", "")
        shipped = node.Shipped(text, str(task.place), pins, task.threads, task.needs_mb, task.offline, names, date)
        files = ray.put(node.packed(task.place, [n for n in ("source", "given") if (task.place / n).is_dir()]))
        claim = {"num_cpus": 1, "memory": min(int(task.needs_mb * 1e6), self._memory)}
        self._heard[mark] = progress
        ref = self._perform.options(**claim).remote(shipped, files, self._shown(job.calibration), self._progress, mark)
        try:
            done = self._wait(ref, cancelled)
        finally:
            del self._heard[mark]
        if done is None:
            return Ended(-9, "was stopped", 0.0, (), True), ""
        if done.error is not None:
            raise EdgesegError(done.error[0], hint=done.error[1] or "")
        task.log.write_bytes(done.log)
        node.unpack(done.files, task.place)
        with contextlib.suppress(FileNotFoundError):
            os.replace(task.place / "out" / "result.json", task.place / "result.json")
        return done.ended, done.toolchain

    def _shown(self, pictures: tuple[Path, ...]) -> Any:
        """Calibration images in Ray's store, sent there once."""
        if pictures not in self._pictures:
            self._pictures[pictures] = self.ray.put([p.read_bytes() for p in pictures])
        return self._pictures[pictures]

    def _wait(self, ref: Any, cancelled: threading.Event) -> node.Performed | None:
        ray = self.ray
        while not ray.wait([ref], timeout=0.3)[0]:
            if cancelled.is_set():
                ray.cancel(ref, force=True)
                return None
            with contextlib.suppress(Exception):  # it may be on the node that just died
                for mark, done, words in ray.get(self._progress.taken.remote(), timeout=5):
                    if mark in self._heard:
                        self._heard[mark](done, words)
        try:
            performed: node.Performed = ray.get(ref)
            return performed
        except ray.exceptions.RayError as e:
            raise StepFailed(f"the node that ran it failed ({str(e).strip().splitlines()[-1][:200]})") from e

    def spread(self, opened: Opened, threads: int | None, options: Mapping[str, Any]) -> Callable[..., Spread]:
        """What ``validate`` calls with its settings to have the images dealt to workers; see ``Spread``."""
        each = threads or min(self.cores or 1, THREADS)
        workers = max(1, sum(int(n["Resources"].get("CPU", 0)) // each for n in self.ray.nodes() if n["Alive"]))
        return lambda **settings: Spread(self, opened, workers, each, {**options, "threads": threads}, settings)

    def compare(
        self,
        reference: Opened,
        others: Sequence[Opened],
        images: Sequence[Path],
        truth: Truth | None = None,
        *,
        threads: int | None = None,
        input: str | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[Verdict]:
        """``edgeseg.evaluate.parity.compare`` in shards of images, joined in their order: the same figures.

        Milliseconds are those of the nodes, each of which runs all models in turn.
        """
        ray, given = self.ray, {"threads": threads or min(self.cores or 1, THREADS)}
        models = []
        for opened in (reference, *others):
            known = opened is reference or is_checkpoint(opened.path)
            models.append(
                (opened.path.name, _model(opened), {**given, **({} if known else {"input": input, "apart": True})})
            )
        size = reference.manifest.imgsz if reference.manifest.dynamic else None
        beside, known_truth = ray.put(node.Beside(tuple(models), size)), ray.put(truth)
        look = ray.remote(num_cpus=1, max_retries=RETRIES)(node.look_beside)
        shards = (images[i : i + SHARD] for i in range(0, len(images), SHARD))
        pending: deque[tuple[int, Any]] = deque()
        whole: list[Seen] = []
        done = 0
        while True:
            while len(pending) < AHEAD * (self.slots or 1) and (paths := next(shards, None)) is not None:
                pending.append(
                    (len(paths), look.remote(beside, [(p, attempted(image_bytes, p)) for p in paths], known_truth))
                )
            if not pending:
                return concluded(reference, others, images, whole)
            count, ref = pending.popleft()
            for one, later in zip_longest(whole, self._seen(ref)):
                if one is not None:
                    one.join(later)
                else:
                    whole.append(later)
                    if later.metrics is not None and truth is not None:
                        later.metrics.truth = truth
            done += count
            if progress:
                progress(done, len(images))

    def _seen(self, ref: Any) -> list[Seen]:
        try:
            found: list[Seen] = self.ray.get(ref)
            return found
        except self.ray.exceptions.RayTaskError as e:
            raise (
                e.cause if isinstance(e.cause, EdgesegError) else EdgesegError(f"a node failed ({str(e.cause)[:300]})")
            ) from e
        except self.ray.exceptions.RayError as e:
            raise EdgesegError(f"the nodes died again and again ({str(e).splitlines()[-1][:200]})") from e


class Spread:
    """Images dealt to workers that hold a model open; what each found comes back as run lengths, in the images' order.

    The batches of a worker that dies go to the others.
    """

    def __init__(
        self,
        cluster: Cluster,
        opened: Opened,
        workers: int,
        threads: int,
        options: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        self.manifest, ray = opened.manifest, cluster.ray
        self._ray = ray
        size = tuple(opened.manifest.imgsz) if opened.manifest.dynamic else None
        looking = ray.remote(num_cpus=threads)(_Looker)
        files = ray.put(_model(opened))
        given = (opened.path.name, [files], dict(options), size, dict(settings))
        self._workers, self._turn = [looking.remote(*given) for _ in range(workers)], 0

    def over(self, images: Sequence[Path]) -> Iterator[tuple[Path, Told | EdgesegError, Mapping[str, float]]]:
        """Each path with what was found there and its milliseconds by stage; bounded memory, whatever their number."""
        batches = (images[i : i + BATCH] for i in range(0, len(images), BATCH))
        pending: deque[_Batch] = deque()
        try:
            while True:
                while len(pending) < AHEAD * len(self._workers) and (paths := next(batches, None)) is not None:
                    pending.append(self._sent(_Batch([(p, attempted(image_bytes, p)) for p in paths])))
                if not pending:
                    return
                batch = pending.popleft()
                found = iter(self._got(batch))
                for path, content in batch.read:
                    yield path, *((content, {}) if isinstance(content, EdgesegError) else _one(path, next(found)))
        finally:
            for worker in self._workers:
                self._ray.kill(worker)

    def _sent(self, batch: _Batch) -> _Batch:
        """Give a batch to the next worker."""
        batch.worker = self._workers[self._turn % len(self._workers)]
        self._turn += 1
        batch.ref = batch.worker.look.remote([(str(p), c) for p, c in batch.read if isinstance(c, bytes)])
        return batch

    def _got(self, batch: _Batch) -> list[dict[str, Any]]:
        """What a batch gave; it goes to another worker where its own has died."""
        while True:
            try:
                found: list[dict[str, Any]] = self._ray.get(batch.ref)
                return found
            except self._ray.exceptions.RayTaskError as e:
                raise EdgesegError(f"a worker failed ({str(e.cause)[:300]})") from e
            except self._ray.exceptions.RayError as e:
                if batch.worker in self._workers:
                    self._workers.remove(batch.worker)
                if not self._workers:
                    raise EdgesegError(f"all workers died ({str(e).splitlines()[-1][:200]})") from e
                self._sent(batch)


@dataclass
class _Batch:
    """Images on their way: each path with its content, or why there is none."""

    read: list[tuple[Path, bytes | EdgesegError]]
    worker: Any = None
    ref: Any = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of a library's own on stderr meanwhile; what matters comes as an exception."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _model(opened: Opened) -> bytes:
    """The file or folder of a model, as ``packed``."""
    with scratch() as place:
        link_or_copy(opened.path, place / "model" / opened.path.name)
        return node.packed(place, ["model"])


def _one(path: Path, found: Mapping[str, Any]) -> tuple[Told | EdgesegError, Mapping[str, float]]:
    if "error" in found:
        return EdgesegError(found["error"], path=path), {}
    return found["told"], found["speed"]


class _Looker(node.Looking):
    """Takes the model out of Ray's store: in a list, for an argument of its own would not outlast a node."""

    def __init__(self, name: str, files: Sequence[Any], *given: Any) -> None:
        super().__init__(name, importlib.import_module("ray").get(files[0]), *given)


class _Progress:
    """Collects what running jobs say, until the driver asks."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, str]] = {}

    def say(self, mark: str, done: float, words: str) -> None:
        """The newest word of a job."""
        self._said[mark] = (done, words)

    def taken(self) -> list[tuple[str, float, str]]:
        """What is new since the last call."""
        said, self._said = self._said, {}
        return [(mark, *what) for mark, what in said.items()]


def _perform(shipped: node.Shipped, files: bytes, pictures: Sequence[bytes], progress: Any, mark: str) -> node.Performed:
    return node.perform(
        shipped, files, pictures, lambda done, words: progress.say.remote(mark, done, words), threading.Event()
    )
