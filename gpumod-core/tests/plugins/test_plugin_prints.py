"""What a stranger's code prints goes to stderr, whichever threads are in such code, and what comes after does not."""

from __future__ import annotations

import itertools
import sys
import threading

import pytest

from gpumod.plugins.isolation import quietly


def in_order(steps: tuple[str, ...]) -> None:
    """Two threads go in and out in this order of their names: at its second turn, a thread leaves."""
    turns = {name: threading.Semaphore(0) for name in ("a", "b")}
    done = threading.Semaphore(0)

    def act(name: str) -> None:
        turns[name].acquire()
        with quietly():
            print(f"{name} inside")
            done.release()
            turns[name].acquire()
            print(f"{name} still inside")
        done.release()

    threads = [threading.Thread(target=act, args=(name,), daemon=True) for name in turns]
    for thread in threads:
        thread.start()
    for name in steps:
        turns[name].release()
        assert done.acquire(timeout=20)
    for thread in threads:
        thread.join(20)


@pytest.mark.parametrize("steps", sorted(set(itertools.permutations("aabb"))), ids="".join)
def test_threads_that_overlap_leave_stdout_as_it_was(
    capsys: pytest.CaptureFixture[str], steps: tuple[str, ...]
) -> None:
    before = sys.stdout
    in_order(steps)
    assert sys.stdout is before
    print("the result")
    told = capsys.readouterr()
    assert told.out == "the result\n"
    assert sorted(told.err.splitlines()) == ["a inside", "a still inside", "b inside", "b still inside"]


def test_an_exception_leaves_stdout_as_it_was() -> None:
    before = sys.stdout
    with pytest.raises(ZeroDivisionError), quietly(), quietly():
        raise ZeroDivisionError
    assert sys.stdout is before
