"""The shipped presets: they load, fit what is promised of them, and match the schemas beside them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import gpumod_presets
from gpumod.adapters.presets import load_presets, mode_schema, service_schema
from gpumod.domain.mode import Want
from gpumod.domain.settings import Settings
from gpumod_presets.plugin import gpumod_presets as hook

FOLDER = Path(gpumod_presets.__file__).parent
FILES = sorted(FOLDER.rglob("*.yaml"))
BUDGET_MB = 24564 - 512
CATALOGUE = load_presets([("gpumod-presets", FOLDER)], Settings())
SERVICES = {key: entry.value for key, entry in CATALOGUE.services.items()}
MODES = {key: entry.value for key, entry in CATALOGUE.modes.items()}


def vram_mb(mode: str, *wants: Want) -> int:
    return sum(SERVICES[member.service].vram_mb for member in MODES[mode].members if member.want in wants)


def test_all_load() -> None:
    assert CATALOGUE.problems == ()
    assert set(SERVICES) == {
        "embedding-code", "glm-code", "embedding", "hyde", "reranker", "reranker-base", "chat", "asr", "tts",
        "llama-router",
    }  # fmt: skip
    assert set(MODES) == {"code", "rag", "speak", "blank"}
    for key, entry in {**CATALOGUE.services, **CATALOGUE.modes}.items():
        assert entry.path.stem == key


def test_the_simulated_vllm_has_room_for_every_model() -> None:
    sim = pytest.importorskip("gpumod_sim.vllm_flags")
    sizes = {
        key: sim.guessed_weights_mb(service.model_id, str(service.unit_vars.get("quantization", "")))
        for key, service in SERVICES.items()
        if service.driver == "vllm"
    }
    assert any(sizes.values())
    for key, weights_mb in sizes.items():
        assert (weights_mb or 0) + 500 < SERVICES[key].vram_mb, key  # 500 MiB: a CUDA context


def test_the_hook_offers_this_folder() -> None:
    (offer,) = hook()
    assert offer.folder == FOLDER


def test_modes_name_what_is_there() -> None:
    for mode in MODES.values():
        assert set(mode.services) <= set(SERVICES)
    for service in SERVICES.values():
        assert set(service.needs) <= set(SERVICES)


def test_ports_are_unique_and_together() -> None:
    ports = Counter(service.port for service in SERVICES.values() if service.host is None)
    assert all(count == 1 for count in ports.values())
    assert all(port is not None and 7800 <= port <= 7899 for port in ports)
    assert SERVICES["chat"].port is None


def test_numbers_that_are_promised() -> None:
    assert {key: service.vram_mb for key, service in SERVICES.items()} == {
        "embedding-code": 2500, "glm-code": 19100, "embedding": 4000, "hyde": 5000, "reranker": 6000,
        "reranker-base": 1500, "chat": 7000, "asr": 6000, "tts": 6000, "llama-router": 0,
    }  # fmt: skip
    code = SERVICES["glm-code"]
    assert (code.context_size, code.kv_cache_per_1k, code.role) == (32768, 170, "code-llm")
    assert SERVICES["reranker"].role == SERVICES["reranker-base"].role == "reranker"
    assert vram_mb("code", Want.AWAKE) == 21600
    assert vram_mb("rag", Want.AWAKE) == 6500
    assert {member.service for member in MODES["rag"].members if member.want is Want.TIME_SHARED} == {
        "hyde", "reranker", "chat",
    }  # fmt: skip
    assert 22_500 <= vram_mb("speak", Want.AWAKE) <= 23_500 < BUDGET_MB
    assert MODES["blank"].members == ()


def test_what_sleeps_how() -> None:
    levels = {key: service.sleep_mode for key, service in SERVICES.items() if service.supports_sleep}
    assert levels == {"embedding": "l1", "hyde": "l1", "reranker": "l1", "chat": "router"}
    assert SERVICES["chat"].host == "llama-router"
    assert SERVICES["llama-router"].unit_vars == {"router": True}


@pytest.mark.parametrize(("name", "made"), [("service", service_schema), ("mode", mode_schema)])
def test_the_shipped_schemas_are_those_of_the_models(name: str, made: Any) -> None:
    shipped = json.loads((FOLDER / "schemas" / f"{name}.schema.json").read_text())
    assert shipped == made()
    jsonschema.Draft202012Validator.check_schema(shipped)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_names_its_schema_and_matches_it(path: Path) -> None:
    first, *_ = path.read_text().splitlines()
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix)
    schema = path.parent / first.removeprefix(prefix)
    assert schema.name == ("mode.schema.json" if path.parent.name == "modes" else "service.schema.json")
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(schema.read_text()))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("service", {"id": "a"}),
        ("service", {"id": "a/b", "driver": "vllm"}),
        ("service", {"id": "a", "driver": "vllm", "prot": 1}),
        ("service", {"id": "a", "driver": "vllm", "port": 0}),
        ("mode", {"id": "a", "services": [{"id": "b", "sleeps": True}]}),
        ("mode", {"id": "a", "services": ["b c"]}),
    ],
)
def test_editors_see_what_is_wrong(name: str, wrong: dict[str, Any]) -> None:
    schema = json.loads((FOLDER / "schemas" / f"{name}.schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)
