"""The benchmark runner: every benchmark can be found, and its rows become a table and plain data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_an_unknown_benchmark_is_named_with_those_there_are() -> None:
    done = bench("nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "start" in done.stderr


def test_every_benchmark_has_a_measure_and_a_docstring() -> None:
    lacking = []
    for path in (ROOT / "bench").glob("bench_*.py"):
        text = path.read_text()
        if not text.startswith('"""') or "\ndef measure(" not in text:
            lacking.append(path.name)
    assert not lacking


@given(seconds=st.floats(1e-6, 1e3), against=st.none() | st.floats(1e-6, 1e3), what=st.text(min_size=1, max_size=80))
def test_rows_become_a_table_and_json(seconds: float, against: float | None, what: str) -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from bench.__main__ import document, table
        from bench.measure import Row
    finally:
        sys.path.remove(str(ROOT))
    row = Row(what=what, seconds=seconds, against="bare", against_seconds=against)
    assert (row.ratio is None) == (against is None)
    assert what in "\n".join(table("some", [row]))
    data = json.loads(json.dumps(document({"some": [row]})))
    assert data["benchmarks"]["some"][0]["ratio"] == row.ratio
