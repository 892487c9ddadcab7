"""Processes of a container, as far as no container is needed to look at them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

CHAIN = """
import os, signal
left, right = os.pipe()
if os.fork() == 0:
    for depth in range({depth}):
        if os.fork():
            signal.pause()
    os.write(right, b"1")
    signal.pause()
os.read(left, 1)
print(os.getpid(), flush=True)
signal.pause()
"""
LOOK = "import sys; from gpumod_docker.pids import tree_of; sys.setrecursionlimit(100); print(len(tree_of({top}).pids))"


def test_a_deep_tree_is_looked_at_all_the_same() -> None:
    """How deep it is says whoever runs in the container."""
    depth = 150
    chain = [sys.executable, "-IS", "-c", CHAIN.format(depth=depth)]
    with subprocess.Popen(chain, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            top = int(process.stdout.readline())
            told = subprocess.run([sys.executable, "-c", LOOK.format(top=top)], capture_output=True, text=True)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert told.stderr == ""
    assert int(told.stdout) >= depth + 2
