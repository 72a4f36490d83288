"""Libraries that write to standard error below Python while a model is loaded."""

from __future__ import annotations

import os
import threading
import time

import pytest

from edgeseg.running.open import unheard


def test_only_a_failure_lets_a_library_be_heard(capfd: pytest.CaptureFixture[str]) -> None:
    with unheard():
        os.write(2, b"INFO: created a delegate\n")
    os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"
    with pytest.raises(ValueError), unheard():
        os.write(2, b"ERROR: no such operator\n")
        raise ValueError
    assert capfd.readouterr().err == ("ERROR: no such operator\n" if hasattr(os, "memfd_create") else "")


def test_threads_take_turns(capfd: pytest.CaptureFixture[str]) -> None:
    """Two that redirect at once would leave one's redirection behind for good."""

    def load(k: int) -> None:
        with unheard():
            os.write(2, b"noise\n")
            time.sleep(0.01 * (k % 3))

    threads = [threading.Thread(target=load, args=(k,)) for k in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"
