"""What real processes show of their loading."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumod.adapters.loading import load_signs

MIB = 1024 * 1024
READER = """
import sys
weights, part = sys.argv[1:]
fetched = open(part, "ab", buffering=0)
for order in sys.stdin:
    if order == "read\\n":
        open(weights, "rb").read()
    elif order == "fetch\\n":
        fetched.write(b"x" * (2 * 1024 * 1024))
    else:
        fetched.close()
    print("done", flush=True)
"""


class Reader:
    def __init__(self, folder: Path) -> None:
        (folder / "weights").write_bytes(os.urandom(8 * MIB))
        argv = [sys.executable, "-c", READER, str(folder / "weights"), str(folder / "abc.incomplete")]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, order: str) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    with reader.process:
        yield reader
        reader.process.kill()


def test_what_it_reads_is_counted(reader: Reader) -> None:
    reader.do("fetch")
    before = load_signs([reader.process.pid]).read_mb
    reader.do("read")
    assert 7.9 < load_signs([reader.process.pid]).read_mb - before < 9


def test_so_is_what_it_fetches_until_it_is_whole(reader: Reader) -> None:
    reader.do("fetch")
    first = load_signs([reader.process.pid]).downloads
    assert list(first) == ["abc.incomplete"]
    reader.do("fetch")
    second = load_signs([reader.process.pid]).downloads
    assert second["abc.incomplete"] - first["abc.incomplete"] == pytest.approx(2, abs=0.1)
    reader.do("close")
    assert load_signs([reader.process.pid]).downloads == {}


def test_what_is_gone_shows_nothing() -> None:
    over = subprocess.Popen(["true"])
    over.wait()
    assert load_signs([over.pid]) == load_signs([])
