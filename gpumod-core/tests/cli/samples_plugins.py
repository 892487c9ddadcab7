"""Hand-made results about plugins."""

from __future__ import annotations

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.operations import plugin_results as pl
from gpumod.operations import results as r

SAMPLES: dict[str, Frozen] = {
    "plugins-new": pl.PluginNewResult(
        folder="/src/gpumod-acme",
        files=("README.md", "pyproject.toml", "src/gpumod_acme.py", "tests/test_gpumod_acme.py"),
        next=("pip install -e '/src/gpumod-acme[test]'", "pytest /src/gpumod-acme", "gpumod plugins check acme"),
    ),
    "plugins-check": pl.PluginCheckResult(
        ok=False,
        suites=(
            pl.SuiteRow(
                kind="driver",
                name="acme",
                distribution="gpumod-acme",
                examples=("chat",),
                tests=(
                    pl.SuiteTest(test="test_launch_is_pure", outcome="passed"),
                    pl.SuiteTest(test="test_probe_takes_any_json", outcome="failed", why="KeyError: 'status'"),
                ),
            ),
            pl.SuiteRow(kind="VRAM estimator", name="acme", distribution="gpumod-acme", untested="no service to test"),
        ),
    ),
    "plugins": r.PluginsResult(
        plugin_api=1,
        plugins=(
            r.PluginRow(
                name="vllm",
                distribution="gpumod-vllm",
                version="0.1.0",
                hooks=("gpumod_drivers",),
                offers=("driver vllm", "sleep l1", "sleep l2"),
            ),
            r.PluginRow(
                name="odd",
                distribution="odd-plugin",
                version="2",
                hooks=(),
                offers=(),
                error=ErrorInfo(
                    code="plugin-broken",
                    message="odd was not loaded",
                    why="ImportError: no module named odd.core",
                    hint="reinstall or uninstall odd-plugin",
                ),
            ),
        ),
        commands={"sim": "gpumod-sim"},
    ),
}
