"""The documentation of presets: its examples load, it names every key, and its tables are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpumod.adapters.presets import load_presets, mode_schema, read_box, service_schema
from gpumod.adapters.presets.schema import FileKeys
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings

ROOT = Path(__file__).parents[3]
DOC = ROOT / "docs" / "presets.md"
SHIPPED = ROOT / "presets" / "src" / "gpumod_presets"
pytestmark = pytest.mark.skipif(not DOC.exists(), reason="docs/presets.md is not beside these tests")


def test_every_example_loads(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", DOC.read_text(), re.MULTILINE | re.DOTALL)
    boxes = [block for block in blocks if block.startswith("version:")]
    assert [read_box(block, "docs", Settings()).problems for block in boxes] == [()]
    assert [read_box(block, "docs", Settings()).box.modes.keys() for block in boxes] == [{"writing"}]
    for number, block in enumerate(block for block in blocks if block not in boxes):
        (tmp_path / f"{number:02}.yaml").write_text(block)
    catalogue = load_presets([("docs", tmp_path)], Settings())
    assert catalogue.problems == ()
    assert len(catalogue.services) + len(catalogue.modes) == len(blocks) - len(boxes) >= 7


def test_every_key_is_explained() -> None:
    text = DOC.read_text()
    keys = {*service_schema()["properties"], *mode_schema()["properties"]}
    keys |= set(mode_schema()["$defs"]["MemberPreset"]["properties"])
    assert {*Service.model_fields, *FileKeys.model_fields} <= keys
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


@pytest.mark.skipif(not SHIPPED.exists(), reason="the shipped presets are not beside these tests")
def test_the_table_of_shipped_presets_is_true() -> None:
    text = DOC.read_text()
    for service in (entry.value for entry in load_presets([("p", SHIPPED)], Settings()).services.values()):
        cells = (
            f"`{service.id}`",
            service.driver,
            str(service.vram_mb),
            str(service.port or ""),
            service.sleep_level,
            service.model_id or "",
        )
        row = "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
        assert row in text
