"""Hand-made results about plugins."""

from __future__ import annotations

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.operations import plugin_results as pl
from gpumod.operations import results as r

TWICE = ErrorInfo(
    code="duplicate-offer",
    message="the driver 'vllm' is offered twice: by 'vllm' of gpumod-vllm 0.1.0 and by 'mine' of mine 1",
    why="none of them is used: gpumod does not guess which is meant",
    hint="uninstall all of them but one",
)

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
                problems=(TWICE,),
            ),
            r.PluginRow(
                name="mine",
                distribution="mine",
                version="1",
                hooks=("gpumod_drivers",),
                offers=("driver vllm",),
                problems=(TWICE,),
            ),
            r.PluginRow(name="core", distribution="gpumod-core", version="0.1.0", hooks=(), offers=("GPU probe nvml",)),
            r.PluginRow(
                name="sim",
                distribution="gpumod-sim",
                version="0.1.0",
                hooks=(),
                offers=(),
                disabled="GPUMOD_DISABLE_PLUGINS",
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
