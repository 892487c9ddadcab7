"""export, diff and apply with the real program on the simulated machine."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine.conftest import Machine, MakeMachine

pytestmark = pytest.mark.sim


def exported(machine: Machine, file: Path) -> str:
    """`gpumod export > FILE`, as people type it."""
    argv = [arg for arg in machine.argv("export") if arg != "--json"]
    with file.open("wb") as out:
        done = subprocess.run(argv, stdout=out, stderr=subprocess.PIPE, text=True, check=True)
    assert "left out: setting sim_machine (of a simulated machine)" in done.stderr
    return file.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_box_is_carried_to_another_machine_and_edited(make_machine: MakeMachine, tmp_path: Path) -> None:
    machine, file = make_machine(), tmp_path / "box.yaml"
    command = "command=uvicorn app:app --host {host} --port {port} " + "--some-option with-a-long-value " * 9
    port = str(machine.unused.pop())
    machine.ok(
        "service", "add", "--id", "notes", "--driver", "fastapi", "--port", port, "--vram-mb", "9", "--set", command
    )
    text = exported(machine, file)
    assert machine.quick("diff", "-f", str(file), "--prune", "--exit-code").json["changes"] == []
    other = make_machine()
    other.ok("apply", "-f", str(file), "--prune")
    assert exported(other, tmp_path / "other.yaml") == text

    machine.change("switch", "code")
    file.write_text(text.replace("vram_mb: 2500", "vram_mb: 2600").replace("vram_mb: 19100", "vram_mb: 19000"))
    differs = machine.quick("diff", "-f", str(file), "--exit-code")
    assert (differs.code, {c["id"] for c in differs.json["changes"]}) == (1, {"embedding-code", "glm-code"})
    assert machine.quick("diff", "-f", str(file)).code == 0
    applied = machine.ok("apply", "-f", str(file)).json
    assert [row["service"] for row in applied["drift"]] == ["embedding-code", "glm-code"]
    pids = {row["id"]: row["pid"] for row in machine.status()["services"]}
    watch = machine.watch()
    now = machine.gpumod("apply", "-f", str(file), "--now")
    assert (now.code, now.json["change"]["status"], now.json["drift"]) == (0, "done", []), now
    machine.whole("code")
    assert not {row["pid"] for row in machine.status()["services"] if row["pid"]} & set(pids.values())
    assert machine.held()["glm-code"] == 19000
    assert max(event["used_mb"]["0"] for event in watch.events()) <= 24052
    assert machine.ok("apply", "-f", str(file), "--now").json["change"]["status"] == "nothing-to-do"


def test_stdin_and_what_is_no_document(machine: Machine, tmp_path: Path) -> None:
    done = subprocess.run(machine.argv("diff", "-f", "-"), input=b"version: 1\n", capture_output=True)
    assert done.returncode == 0, done
    large = tmp_path / "large.yaml"
    with large.open("wb") as out:
        out.truncate(50_000_000)
    (tmp_path / "latin.yaml").write_bytes(b"version: 1 # \xe9\n")
    for file, code in [
        (tmp_path, "bad-file"),
        (tmp_path / "missing", "bad-file"),
        (large, "bad-file"),
        (tmp_path / "latin.yaml", "bad-file"),
    ]:
        for command in ("diff", "apply"):
            refused = machine.quick(command, "-f", str(file))
            assert (refused.code, refused.error["code"]) == (2, code), refused
