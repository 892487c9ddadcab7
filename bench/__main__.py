"""`python -m bench [NAME...]`: run bench_*.py, print a table, and write bench/results/latest.json.

Numbers of different machines say little: read the ratios, which are taken within one run. Nothing is asserted.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from bench.measure import Row

HERE = Path(__file__).parent
RESULT = HERE / "results" / "latest.json"


def main(wanted: list[str]) -> int:
    """Run the chosen benchmarks (all of them if none is named). 2 if a name is unknown."""
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)} (there are: {', '.join(known)})", file=sys.stderr)
        return 2
    results: dict[str, list[Row]] = {}
    for name in wanted or known:
        module = importlib.import_module(f"bench.bench_{name}")
        results[name] = list(module.measure())
        print("\n".join(table(name, results[name])), flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document(results), indent=2) + "\n")
    print(f"\nwritten to {RESULT.relative_to(Path.cwd()) if RESULT.is_relative_to(Path.cwd()) else RESULT}")
    return 0


def table(name: str, rows: Iterable[Row]) -> list[str]:
    """The rows of one benchmark as text, widest column first."""
    lines = [f"\n{name}", f"  {'what':<48} {'ms':>10} {'ratio':>8}  against, aim"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        notes = ", ".join(part for part in (row.against, row.aim and f"aim: {row.aim}") if part)
        lines.append(f"  {row.what:<48} {row.seconds * 1000:>10.2f} {ratio:>8}  {notes}".rstrip())
    return lines


def document(results: dict[str, list[Row]]) -> dict[str, object]:
    """All rows as plain data, with the machine that they were taken on."""
    machine = {"python": platform.python_version(), "system": platform.system(), "cpus": os.cpu_count()}
    return {
        "machine": machine,
        "benchmarks": {name: [{**asdict(row), "ratio": row.ratio} for row in rows] for name, rows in results.items()},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
