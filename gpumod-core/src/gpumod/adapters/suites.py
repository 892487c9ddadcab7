"""Runs a conformance suite over something that is offered, in a pytest process of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from gpumod.domain.errors import Failed, MachineLacks

TIMEOUT_S = 900.0
NEEDED = ("pytest", "hypothesis", "pytest_asyncio")


async def run_suite(request: Mapping[str, Any]) -> list[dict[str, str]]:
    """What became of each test: `test`, `outcome` (passed, failed, skipped) and `why`.

    `request` is what :mod:`gpumod.testing.check` reads. It goes through a pipe: services may hold secrets. Raises
    MachineLacks `no-pytest`, and Failed `suite-broken` where pytest itself ends without a verdict.
    """
    lacking = [name.replace("_", "-") for name in NEEDED if not _is_there(name)]
    if lacking:
        raise MachineLacks(
            "no-pytest",
            "the suites cannot be run here",
            why=f"{', '.join(lacking)} is not installed",
            hint='pip install "gpumod-core[testing]"',
        )
    # Plugins of pytest that happen to be installed have no say in the verdict.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "gpumod.testing.check")
    with tempfile.TemporaryDirectory() as folder:  # what hypothesis keeps is nobody's who asks from his own folder
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd=folder
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                stdout, stderr = await process.communicate(json.dumps(request).encode())
        except TimeoutError:
            raise _broken(f"no verdict within {TIMEOUT_S:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    try:
        verdict: list[dict[str, str]] = json.loads(stdout)
    except ValueError:
        last = stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise _broken(f"it ended with {process.returncode}: {' '.join(last)[:300]}") from None
    return verdict


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # something odd is there in its place
        return False


def _broken(why: str) -> Failed:
    hint = "subclass the suite of gpumod.testing in a test of your own, and run pytest there"
    return Failed("suite-broken", "the suite came to no verdict", why=why, hint=hint)
