"""A study is shared: workers divide what is to be measured, and take up what a dead one left."""

import itertools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgeseg.errors import EdgesegError
from edgeseg.export.frontier import plot, write_page
from edgeseg.export.search import Found, Limits, Measured, key_of, outline, search
from edgeseg.export.study import Study
from edgeseg.quantize.flow import STAGES
from edgeseg.quantize.recipe import FLOAT

ORDER = ("backbone", "box", "score", "neck", "coeff", "proto")
LOSSES = dict(zip(ORDER, (0.6, 0.3, 0.2, 0.05, 0.01, 0.0)))
WORKER = """
import sys, time
from test_study import ORDER, measured, opened
from edgeseg.export.search import outline
def slowly(islands):
    print(sorted(islands), flush=True)
    time.sleep(float(sys.argv[2]))
    return measured(islands)
opened(sys.argv[1]).work(outline(ORDER), slowly)
print("done", flush=True)
"""


def measured(islands):
    loss = sum(v for k, v in LOSSES.items() if k not in islands)
    ms = 1.0 + sum(0.1 * (1 + ORDER.index(k)) for k in islands)
    return Measured(key_of(islands), loss, loss / 2, ms, 1000 + 10 * len(islands), agreement=1 - loss / 10)


def opened(storage, name="demo"):
    return Study(storage, name, STAGES, (FLOAT, 16))


def worker(storage, seconds):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", WORKER, str(storage), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def found(study):
    return Found(None, study.measured(), Limits())


@pytest.mark.parametrize("storage", ["study.log", "sqlite:///{}/study.db"])
def test_what_one_worker_measured_another_knows(tmp_path, storage):
    where = storage.format(tmp_path) if "{" in storage else tmp_path / storage
    calls = []

    def measure(islands):
        calls.append(dict(islands))
        return measured(islands)

    opened(where).work(outline(ORDER), measure)
    assert calls == outline(ORDER) and len(calls) == 11
    again = opened(where)
    again.work(outline(ORDER), lambda islands: pytest.fail("measured twice"))
    assert {m.islands for m in again.measured()} == {key_of(i) for i in outline(ORDER)}
    assert again.find({"backbone": FLOAT}) == measured({"backbone": FLOAT}) and again.find({"box": 16}) is None
    assert opened(where, "another").measured() == ()


def test_a_search_with_limits_runs_through_a_study(tmp_path):
    study, calls = opened(tmp_path / "study.log"), []

    def obtain(islands):
        def measure(i):
            calls.append(dict(i))
            return measured(i)

        study.work([islands], measure)
        return study.find(islands)

    limits = Limits(min_agreement=0.98)
    outcome = search(ORDER, obtain, limits)
    assert outcome == search(ORDER, measured, limits) and outcome.best is not None
    assert all(m.agreement < 0.98 or m.ms >= outcome.best.ms for m in outcome.measured)
    before = len(calls)
    search(ORDER, obtain, Limits(max_drop=0.4))
    assert len(calls) < before + len(outcome.measured)  # of another limit, what is known serves too


def test_what_a_format_cannot_have_is_asked_for_once_and_all_8_bit_must_be_possible(tmp_path):
    study, calls = opened(tmp_path / "study.log"), []

    def measure(islands):
        calls.append(dict(islands))
        raise EdgesegError("no 16-bit kernels")

    study.work([{"box": 16}], measure)
    opened(tmp_path / "study.log").work([{"box": 16}], measure)
    assert calls == [{"box": 16}] and study.refused == {(("box", 16),): "no 16-bit kernels"}
    assert study.find({"box": 16}) is None
    with pytest.raises(EdgesegError, match="no 16-bit kernels"):
        study.work([{}], measure)


def test_an_interrupted_trial_is_free_again(tmp_path):
    study = opened(tmp_path / "study.log")

    def stop(islands):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.work([{}], stop)
    study.work([{}], measured)
    assert study.find({}) == measured({})


def test_the_engine_explores_beyond_what_is_obvious(tmp_path):
    study = opened(tmp_path / "study.log")
    study.work(outline(ORDER), measured)
    study.explore(20, measured)
    every = study.measured()
    assert len(every) == 20 == len({m.islands for m in every})
    assert {dict(m.islands).get(s) for m in every for s in ORDER} == {None, FLOAT, 16}
    small = Study(tmp_path / "study.log", "small", ("box", "score"), (FLOAT,))
    small.explore(40, measured)
    assert len(small.measured()) == 4  # there are no more


def test_a_worker_that_is_killed_leaves_nothing_behind(tmp_path):
    quiet = opened(tmp_path / "quiet.log")
    quiet.work(outline(ORDER), measured)
    shared = tmp_path / "shared.log"
    first, second = worker(shared, 0.4), worker(shared, 0.4)
    try:
        begun = [first.stdout.readline(), first.stdout.readline(), second.stdout.readline()]
        first.send_signal(signal.SIGKILL)
        first.wait()
        rest = second.communicate(timeout=120)[0].split("\n")
    finally:
        first.kill()
        second.kill()
    assert all(begun) and begun[0] != begun[2] and rest[-2] == "done"
    study = opened(shared)
    assert {m.islands: m for m in study.measured()} == {m.islands: m for m in quiet.measured()}
    assert found(study).frontier == found(quiet).frontier != ()
    assert not study._busy()
    # The second one measured what the first had under its hands when it died, and nothing that the first had finished.
    lines = [begun[2].strip(), *rest[:-2]]
    assert len(lines) == len(set(lines)) and begun[0].strip() not in lines


def test_of_two_that_begin_the_same_at_once_the_first_goes_on_though_it_says_late_what_it_began(tmp_path):
    first, second = opened(tmp_path / "study.log"), opened(tmp_path / "study.log")
    first._study.enqueue_trial(first._values({}))
    trial = first._study.ask()
    trial.set_user_attr("worker", f"{platform.node()}:{os.getpid()}")

    def late():
        time.sleep(0.3)
        for stage in STAGES:
            trial.suggest_categorical(stage, first.choices)
        time.sleep(0.3)
        m = measured({})
        trial.set_user_attr("measured", m.to_dict())
        first._study.tell(trial, [m.disagreement, m.drop, m.ms, float(m.size)])

    thread = threading.Thread(target=late)
    thread.start()
    second.work([{}], lambda islands: pytest.fail("measured twice"))
    thread.join()
    assert second.find({}) == measured({})


def test_silence_is_death_also_where_the_process_cannot_be_looked_for(tmp_path, monkeypatch):
    import edgeseg.export.study as module

    monkeypatch.setattr(module, "SILENCE", 0.3)
    gone = opened(tmp_path / "study.log")
    gone._study.enqueue_trial(gone._values({}))
    trial = gone._study.ask()
    for stage in STAGES:
        trial.suggest_categorical(stage, gone.choices)
    trial.set_user_attr("worker", "another-machine:1")
    trial.set_user_attr("beat", 7)
    start = time.monotonic()
    study = opened(tmp_path / "study.log")
    study.work([{}], measured)
    assert study.find({}) is not None and time.monotonic() - start >= 0.3


def test_a_storage_that_cannot_be_opened_says_so():
    with pytest.raises(EdgesegError, match="cannot be opened"):
        opened("nonsense://nowhere")


def test_the_frontier_is_a_page(tmp_path):
    every = tuple(measured(i) for i in outline(ORDER))
    outcome = Found(every[1], every, Limits(min_agreement=0.9))
    page = write_page(tmp_path / "page.html", {"tflite <b>": outcome}, "a&b.pt").read_text()
    assert "<title>Mixed precisions of a&amp;b.pt</title>" in page and "tflite <b>" not in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    drawn, figures = data["sections"]
    assert drawn["title"] == "tflite <b>" and len(drawn["points"]) == 11 == len(figures["rows"])
    assert [p["name"] for p in drawn["points"] if p["mark"]] == [every[1].title]
    assert [r["cells"][0] for r in figures["rows"] if r["mark"] == "best"] == [every[1].title]
    times = [r["cells"][4] for r in figures["rows"]]
    assert times == sorted(times) and sum(r["mark"] == "off" for r in figures["rows"]) == 11 - len(outcome.frontier)
    assert plot(Found(None, (), Limits(max_drop=1.0)), "none")["points"] == []
    assert all(a.islands != b.islands for a, b in itertools.pairwise(outcome.frontier))


def test_the_command_refuses_what_makes_no_sense(shapes_yaml, capsys):
    from edgeseg.cli import run
    from edgeseg.resources import demo_checkpoint

    words = ["search", str(demo_checkpoint()), f"data={shapes_yaml}", "imgsz=96"]
    for more, said in (
        (["trials=0"], "whole number"),
        (["trials=5", "min_agreement=0.9"], "without limits"),
        (["min_agreement=95"], "not in 0..1"),
        (["--storage", "nonsense://x", "min_agreement=0.5"], "cannot be opened"),
    ):
        assert run([*words, *more]) == 2 and said in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_search_is_written_down_and_export_takes_it(shapes_yaml, tmp_path):

    from edgeseg.cli import run
    from edgeseg.resources import demo_checkpoint

    model = tmp_path / "demo.pt"
    model.write_bytes(demo_checkpoint().read_bytes())
    shared = [f"data={shapes_yaml}", "imgsz=96", "limit=6", "--storage", str(tmp_path / "study.log"), "-f", "onnx"]
    report, page = tmp_path / "report.json", tmp_path / "page.html"
    assert run(["search", str(model), *shared, "min_agreement=0.0", "--json", str(report), "--html", str(page)]) == 0
    (search,) = json.loads(report.read_text())["searches"]
    assert search["best"]["title"] == "all 8 bit" and 0.5 < search["best"]["agreement"] <= 1 and page.exists()
    assert len(search["measured"]) == 1
    made = json.loads(report.read_text())
    words = ["export", str(model), "--int8", *shared, "min_agreement=0.0", "--json", str(report), "--force"]
    assert run(words) == 0
    again = json.loads(report.read_text())
    assert again["searches"] == made["searches"] and again["exports"][0]["path"]
