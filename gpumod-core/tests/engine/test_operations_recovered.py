"""What `recover` says of a run that it has closed."""

from __future__ import annotations

from typing import Any

import pytest

from gpumod.bootstrap import preset_tools
from gpumod.operations.params import ApplyParams, NoParams, RecoverParams
from gpumod.testing.world_drivers import quick_service, world_mode


@pytest.mark.parametrize(("way", "told"), [("resume", True), ("rollback", False)])
def test_an_apply_that_was_gone_on_with_is_not_stored(make_box: Any, way: str, told: bool) -> None:
    box = make_box(8000, define=[quick_service("web", 1000, 9001), world_mode("on", "web")])
    box.switch("on")
    text = box.ask("export", NoParams(), presets=preset_tools).yaml.replace("vram_mb: 1000", "vram_mb: 1500")
    killed: list[Any] = []
    box.when("start web after", lambda: killed.append(box.copy("killed")))
    assert box.ask("apply", ApplyParams(text=text, source="x", now=True), presets=preset_tools).applied
    (cut,) = killed
    closed = cut.ask("recover", RecoverParams(way=way))
    assert (closed.open_run, closed.change.exit_code) == (None, 0)
    assert any("gpumod apply -f FILE again" in note for note in closed.notes) is told
    assert cut.store.services()["web"].vram_mb == 1000
    assert cut.observe().reading("web").launched.vram_mb == (1500 if told else 1000)
    cut.close()
