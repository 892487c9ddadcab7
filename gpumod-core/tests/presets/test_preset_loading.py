"""Loading presets: what is good is found, what is bad is named and skipped, nothing is taken away."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from gpumod.adapters.presets import load_presets
from gpumod.adapters.presets.strict_yaml import MAX_BYTES, MAX_DEPTH
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.mode import Mode, ModeMember, Want
from gpumod.domain.presets import PresetCatalogue
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings

FULL = """
    id: chat
    name: "Chat: the one"
    driver: llamacpp
    port: 7801
    vram_mb: 7000
    context_size: 8192
    kv_cache_per_1k: 141.5
    model_id: Qwen/Qwen3-8B-GGUF:Q4_K_M
    model_path: $MODELS_DIR/chat.gguf
    health_endpoint: /health
    startup_timeout: 300
    supports_sleep: true
    sleep_mode: router
    unit_template: mine.j2
    unit_vars: {n_gpu_layers: 99, flash_attn: on, cwd: "~/x", note: $MODELS_DIR, when: 2026-01-02}
    role: chat-llm
    depends_on: [embedding]
    gpus: [0, 1]
    asleep_mb: 600
    start_peak_mb: 7500
    host: router
    run_with: process
    pinned: true
"""


def load(folder: Path, **files: str) -> PresetCatalogue:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return load_presets([("mine", folder)], Settings(models_dir="/models"))


def only_problem(catalogue: PresetCatalogue) -> ErrorInfo:
    (problem,) = catalogue.problems
    return problem


def test_every_key_of_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    catalogue = load(tmp_path, chat=FULL)
    assert catalogue.problems == ()
    entry = catalogue.services["chat"]
    assert (entry.path, entry.distribution) == (tmp_path / "chat.yaml", "mine")
    assert entry.value == Service(
        id="chat", name="Chat: the one", driver="llamacpp", port=7801, vram_mb=7000, context_size=8192,
        kv_cache_per_1k=141.5, model_id="Qwen/Qwen3-8B-GGUF:Q4_K_M", model_path="/models/chat.gguf",
        health_endpoint="/health", startup_timeout=300, sleep_mode="router", unit_template="mine.j2",
        unit_vars={"n_gpu_layers": 99, "flash_attn": True, "cwd": "/home/me/x", "note": "$MODELS_DIR",
                   "when": "2026-01-02"},
        role="chat-llm", depends_on=("embedding",), gpus=(0, 1), asleep_mb=600, start_peak_mb=7500, host="router",
        run_with="process", pinned=True,
    )  # fmt: skip


def test_every_key_of_a_mode(tmp_path: Path) -> None:
    text = """
        id: rag
        name: Retrieval
        description: All of it
        services:
          - embedding
          - {id: chat, sleep_on_idle: true, start_order: 2}
          - {id: hyde, asleep: true}
    """
    catalogue = load(tmp_path, modes__rag=text, elsewhere="kind: mode\n" + textwrap.dedent(text).replace("rag", "r2"))
    members = (
        ModeMember(service="embedding"),
        ModeMember(service="chat", want=Want.TIME_SHARED, start_order=2),
        ModeMember(service="hyde", want=Want.ASLEEP),
    )
    mode = Mode(id="rag", name="Retrieval", description="All of it", members=members)
    assert catalogue.problems == ()
    assert {key: entry.value for key, entry in catalogue.modes.items()} == {
        "rag": mode,
        "r2": mode.model_copy(update={"id": "r2"}),
    }


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("id: a\ndriver: vllm\nprot: 1", 3, "prot", "did you mean port"),
        ("id: a\ndriver: vllm\nzzz: 1", 3, "zzz", "known are kind, id, name"),
        ("id: a", None, "driver", "is missing"),
        ("id: a\ndriver: vllm\nport: 99999", 3, "port", "99999"),
        ("id: a\ndriver: vllm\nvram_mb: lots", 3, "vram_mb", "'lots'"),
        ("id: ../a\ndriver: vllm", 1, "id", "is not a name"),
        ('id: "a\\nb"\ndriver: vllm', 1, "id", "is not a name"),
        ('id: a\nname: "x\\ty"\ndriver: vllm', 2, "name", "control characters"),
        ("id: 7\ndriver: vllm", 1, "id", "must be a text"),
        ("id: a\ndriver: vllm\ngpus: [0, x]", 3, "gpus.1", "'x'"),
        ("id: a\ndriver: vllm\ngpus: []", 1, "", "gpus must be"),
        ("id: a\ndriver: vllm\nsupports_sleep: maybe", 3, "supports_sleep", "true or false"),
        ("id: a\ndriver: vllm\nsupports_sleep: false\nsleep_mode: l1", 3, "", "sleep_mode is 'l1'"),
        ("id: a\ndriver: vllm\nsupports_sleep: true", 3, "", "must name a level"),
        ("id: a\ndriver: vllm\nkind: thing", 3, "kind", "must be service or mode"),
        ("id: a\ndriver: vllm\nmodel_path: $MODEL_DIR/x", 3, "model_path", "did you mean $MODELS_DIR?"),
        ("id: a\ndriver: vllm\nunit_vars:\n  cwd: a/${nope}", 4, "unit_vars.cwd", "known are"),
        ("id: a\ndriver: vllm\nmodel_path: a$", 3, "model_path", "is no variable"),
        ("id: a\nid: b\ndriver: vllm", 2, "", "twice (first in line 1)"),
        ("id: a\ndriver: vllm\nunit_vars: {x: 1, x: 2}", 3, "", "twice"),
        ("id: a\ndriver: vllm\nunit_vars:\n  on: 1", 4, "", "put quotes around it"),
        ("id: a\ndriver: vllm\nunit_vars: {[1]: 2}", 3, "", "not text"),
        ("id: a\nname: &x b\ndriver: *x", 2, "", "anchors"),
        ("id: a\n<<: *x", 2, "", "anchors"),
        ("id: !!python/object/apply:os.system [x]", 1, "", "tag"),
        ("id: !!binary aGk=", 1, "", "tag"),
        ("id: a\ndriver: [", 3, "", "not valid YAML"),
        ("id: a\n---\nid: b", 2, "", "not valid YAML"),
        ("- a\n- b", None, "", "no mapping"),
        ("", None, "", "no mapping"),
        ("id: a\ndriver: vllm\nunit_vars: " + "[" * (MAX_DEPTH + 1), 3, "", "nested more than"),
        ("id: a\ndriver: vllm\nunit_vars: {x: " + "[" * 90_000, 3, "", "nest"),
        ("id: a\n# " + "x" * MAX_BYTES, None, "", "larger than"),
        ("kind: mode\nid: a\nservices: [{id: b, asleep: true, sleep_on_idle: true}]", 3, "services.0", "not both"),
        ("kind: mode\nid: a\nservices: [b, b]", 1, "", "twice"),
        ("kind: mode\nid: a\nservices: [{id: b, sleep: 1}]", 3, "services.0.sleep", "did you mean asleep"),
        ("kind: mode\nid: a\nservices: [b/c]", 3, "services.0.id", "is not a name"),
        ("kind: mode\nid: a\nservice: [b]", 3, "service", "did you mean services"),
        ("kind: mode\nid: a\nservices: b", 3, "services", "list"),
        ("id: a\ndriver: vllm\nvram_mb: 9\nasleep_mb: 10", None, "", "asleep_mb is above vram_mb"),
        ("id: a\ndriver: vllm\ngpus: all", 3, "gpus", "'any' or a list of indices, not 'all'"),
        ("id: a\ndriver: vllm\nunit_vars: [1]", 3, "unit_vars", "[1]"),
        ('id: a\ndriver: vllm\nunit_vars: {x: {y: "a\\eb"}}', 3, "unit_vars", "control"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_line_and_field_and_costs_itself_alone(
    tmp_path: Path, text: str, line: int | None, field: str, says: str
) -> None:
    catalogue = load(tmp_path, good="id: good\ndriver: vllm")
    (tmp_path / "bad.yaml").write_text(text)
    catalogue = load_presets([("mine", tmp_path)], Settings())
    problem = only_problem(catalogue)
    assert list(catalogue.services) == ["good"]
    assert problem.code == "bad-preset"
    assert str(tmp_path / "bad.yaml") in problem.message
    assert problem.details["field"] == field
    assert says in problem.message
    if line is not None:
        assert problem.details["line"] == line


def test_several_problems_of_a_file_are_all_told(tmp_path: Path) -> None:
    catalogue = load(tmp_path, bad="id: a b\nport: 0\nnam: x")
    assert [problem.details["field"] for problem in catalogue.problems] == ["id", "driver", "port", "nam"]


def test_bytes_that_are_no_text_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"id: \xff\xfe")
    assert "UTF-8" in only_problem(load(tmp_path)).message
    (tmp_path / "a.yaml").write_bytes(b"id: a\x00b")
    assert "not valid YAML" in only_problem(load(tmp_path)).message


def test_two_files_of_one_id_are_a_collision_and_the_first_wins(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.yaml").write_text(f"id: x\ndriver: vllm\nname: {name}")
    catalogue = load_presets([("one", tmp_path / "b"), ("two", tmp_path / "a")], Settings())
    assert catalogue.services["x"].value.name == "b"
    problem = only_problem(catalogue)
    assert problem.code == "preset-collision"
    assert str(tmp_path / "a" / "x.yaml") in problem.message
    assert f"which {tmp_path / 'b' / 'x.yaml'} (one) defines already" in problem.message
    assert f"`gpumod preset validate {tmp_path / 'b'} {tmp_path / 'a'}` checks them again" in problem.hint


def test_a_collision_inside_one_folder_is_checked_again_by_that_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("id: x\ndriver: vllm")
    problem = only_problem(load_presets([("", tmp_path)], Settings()))
    assert problem.message.endswith(f"which {tmp_path / 'a.yaml'} defines already")
    assert f"`gpumod preset validate {tmp_path}` checks them again" in problem.hint


def test_a_service_and_a_mode_may_share_an_id(tmp_path: Path) -> None:
    catalogue = load(tmp_path, x="id: x\ndriver: vllm", modes__x="id: x")
    assert list(catalogue.services) == list(catalogue.modes) == ["x"]


def test_a_folder_that_is_missing_or_empty_is_said(tmp_path: Path) -> None:
    catalogue = load_presets([("a", tmp_path / "no"), ("b", tmp_path)], Settings())
    assert [problem.code for problem in catalogue.problems] == ["bad-preset-folder"] * 2
    assert "is not there" in catalogue.problems[0].message
    assert "holds no presets" in catalogue.problems[1].message
    assert (catalogue.services, catalogue.modes) == ({}, {})


def test_one_file_can_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("id: x\ndriver: vllm")
    assert list(load_presets([("me", path)], Settings()).services) == ["x"]


def test_a_pipe_and_a_link_to_nothing_are_problems(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "lost.yml").symlink_to("nowhere")
    catalogue = load(tmp_path, a="id: a\ndriver: vllm")
    assert [problem.message for problem in catalogue.problems] == [
        f"{tmp_path}/lost.yml: is a link to what is not there",
        f"{tmp_path}/pipe.yaml: is no file",
    ]
    assert {problem.code for problem in catalogue.problems} == {"bad-preset"}
    assert list(catalogue.services) == ["a"]
    alone = load_presets([("a", tmp_path / "pipe.yaml"), ("b", tmp_path / "lost.yml")], Settings())
    assert [problem.message.rpartition(": ")[2] for problem in alone.problems] == [
        "is no file",
        "is a link to what is not there",
    ]


@pytest.mark.parametrize("text", ["version: 1\nservices: [{id: a, driver: vllm}]", "modes: [{id: a}]", "settings: {}"])
def test_a_document_of_a_machine_is_no_preset(tmp_path: Path, text: str) -> None:
    problem = only_problem(load(tmp_path, box=text))
    assert "describes a whole machine" in problem.message
    assert f"`gpumod diff -f {tmp_path}/box.yaml`" in problem.hint


def test_what_is_no_preset_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / ".hidden.yaml").write_text("id: h\ndriver: vllm")
    (tmp_path / "notes.txt").write_text("x")
    catalogue = load(tmp_path, a="id: a\ndriver: vllm")
    assert catalogue.problems == ()
    assert list(catalogue.services) == ["a"]


def test_paths_without_settings_have_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("MODELS_DIR", "/not/this/one")
    said = {
        "$MODELS_DIR/a": "/home/me/models/a",
        "${HF_HOME}/b": "/home/me/.cache/huggingface/b",
        "$HOME/c": "/home/me/c",
        "~": "/home/me",
        "a~/$$x": "a~/$x",
        "$~/y": "~/y",
        "~other/z": "~other/z",
    }
    for path, expanded in said.items():
        text = f"id: a\ndriver: vllm\nmodel_path: '{path}'"
        (tmp_path / "a.yaml").write_text(text)
        catalogue = load_presets([("me", tmp_path)], Settings())
        assert catalogue.problems == ()
        assert catalogue.services["a"].value.model_path == expanded
