"""The belt between two threads: in order, bounded, nothing lost without being counted."""

from __future__ import annotations

import threading
import time
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from edgeseg.live.belt import Belt


def test_a_full_belt_waits_for_room() -> None:
    belt: Belt[int] = Belt(2)
    taken: list[int] = []

    def take() -> None:
        while (item := belt.take()) is not None:
            taken.append(item)
            time.sleep(0.001)

    thread = threading.Thread(target=take)
    thread.start()
    assert all(belt.put(i) for i in range(1, 101))
    belt.end()
    thread.join(10)
    assert taken == list(range(1, 101)) and belt.lost == 0
    assert not belt.put(5) and belt.take() is None


@given(st.lists(st.sampled_from(["put", "take"]), max_size=60), st.integers(1, 3))
def test_the_newest_are_kept_and_the_lost_are_counted(steps: list[str], room: int) -> None:
    belt: Belt[int] = Belt(room, newest=True)
    oracle: deque[int] = deque(maxlen=room)
    puts = takes = 0
    for step in steps:
        if step == "put":
            puts += 1
            belt.put(puts)
            oracle.append(puts)
        elif oracle:
            takes += 1
            assert belt.take() == oracle.popleft()
    assert belt.lost == puts - takes - len(oracle)


def test_whoever_waits_on_a_broken_belt_is_let_go() -> None:
    broken = False
    belt: Belt[int] = Belt(1, broken=lambda: broken)
    assert belt.put(1)
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(belt.put(2)))]
    threads[0].start()
    time.sleep(0.05)
    assert not results
    broken = True
    threads[0].join(5)
    assert results == [False]
    assert belt.take() == 1, "what lies there is still taken"
    assert belt.take() is None
