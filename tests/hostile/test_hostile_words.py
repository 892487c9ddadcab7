"""What is wrong with an input is said with what was typed, and never in a validator's own words."""

import re

import pytest

PYDANTIC = re.compile(r"Input should|should match pattern|Field required|Extra inputs|\[key\]|valid integer|\^\[A-Za")
FIELDS = re.compile(r"\b(vram_mb|start_peak_mb|context_size|kv_cache_per_1k|startup_timeout|timeout_s|gpu_total_mb)\b")
VLLM = ("service", "add", "--id", "x", "--driver", "vllm", "--port", "9100", "--model-id", "a/b", "--vram-mb", "5000")
FASTAPI = (*VLLM[:5], "fastapi", "--port", "9100", "--vram-mb", "5", "--set", "command=x")
WRONG = {
    "vram": ((*VLLM[:-1], "-1"), "--vram-mb: must be at least 0 (given: -1)"),
    "gpus": ((*VLLM, "--gpus", "300"), "--gpus: must be 'any' or indices from 0 to 255"),
    "peak": ((*VLLM, "--start-peak-mb", "3"), "--start-peak-mb is below --vram-mb"),
    "start": ((*VLLM, "--startup-timeout", "0"), "--startup-timeout: must be above 0 (given: 0.0)"),
    "driver": ((*VLLM[:5], "v x", *VLLM[6:]), "--driver: is not a name"),
    "id": ((*VLLM[:3], "x y", *VLLM[4:]), "--id: is not a name"),
    "host": ((*VLLM, "--host-service", "a b"), "--host-service: is not a name"),
    "option": ((*VLLM, "--set", "gpu_memory_utilization=3"), "'gpu_memory_utilization': must be at most 1 (got 3)"),
    "whole": ((*VLLM, "--set", "max_num_seqs=x"), "'max_num_seqs': must be a whole number (got 'x')"),
    "word": ((*VLLM, "--set", "dtype=a b"), "'dtype': must be one plain word (got 'a b')"),
    "path": ((*FASTAPI, "--set", "sleep_path=nap"), "'sleep_path': must be a path that begins with / (got 'nap')"),
    "empty": ((*FASTAPI[:-1], "command="), "'command': must not be empty (got '')"),
    "field": (("service", "edit", "chat", "--unset", "driver"), "--driver: is missing"),
    "argument": (("service", "edit", "a b", "--port", "3"), "SERVICE: is not a name"),
    "arguments": (("preset", "load", "a b"), "PRESET"),
    "timeout": (("switch", "code", "--timeout", "0"), "--timeout: must be above 0"),
    "lines": (("service", "logs", "chat", "-n", "0"), "--lines: must be at least 1"),
    "context": (("simulate", "--mode", "code", "--context", "glm-code=0"), "--context glm-code: must be at least 1"),
    "card": (("simulate", "--mode", "code", "--gpu-total", "0"), "--gpu-total: must be at least 1"),
    "add": (("simulate", "--mode", "code", "--add", "a b"), "--add: is not a name"),
    "members": (("mode", "create", "m", "--services", "a b"), "--services: is not a name"),
    "want": (("mode", "create", "m", "--services", "chat", "--asleep", "a b"), "--asleep"),
    "limit": (("history", "list", "--limit", "0"), "--limit: must be at least 1"),
    "sim": (("init", "--yes", "--sim", "A:5"), "--sim: must be at least 256"),
    "take": (("init", "--yes", "--sim", "A:5000", "--take", "x"), "--take goes without --sim"),
    "setting": (("settings", "set", "reserve_mb", "abc"), "must be a whole number"),
    "name": (("settings", "set", "supervisor", "a b"), "is not a name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_words_are_those_that_were_typed(home, case):
    args, words = WRONG[case]
    said = home.say(*args, code=2).stderr
    assert words in said
    assert not PYDANTIC.search(said), said
    assert case == "setting" or not FIELDS.search(said), said


def test_presets_speak_of_their_keys(home, outside, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(
        "id: 'a b'\ndriver: vllm\nvram_mb: -1\nport: 70000\nstartup_timeout: x\npinned: 3\ncontext_size: yes\n"
    )
    problems = home.ask("preset", "validate", str(file), code=1).json["problems"]
    said = "\n".join(problem["message"] for problem in problems)
    for words in (
        "field vram_mb must be at least 0, not -1",
        "field port must be at most 65535, not 70000",
        "field id is not a name",
        "field startup_timeout must be a number, not 'x'",
        "field pinned must be true or false, not 3",
        "field context_size must be a number, not True",
    ):
        assert words in said
    assert not PYDANTIC.search(said), said


def test_rows_that_were_edited_by_hand_are_said_plainly(home):
    home.sql("UPDATE services SET vram_mb = -1 WHERE id = 'chat'")
    home.sql("INSERT OR REPLACE INTO settings VALUES ('reserve_mb', 'many', 0)")
    said = "\n".join(problem["message"] for problem in home.ask("status", code=0).json["problems"])
    assert "row 'chat': field vram_mb is wrong: must be at least 0" in said
    assert "row 'reserve_mb': field value is wrong: must be a whole number" in said
    assert not PYDANTIC.search(said), said
