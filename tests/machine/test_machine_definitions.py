"""Definitions that several real programs write at the same moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, Outcome

pytestmark = [pytest.mark.sim, pytest.mark.slow]


def at_once(machine: Machine, *commands: tuple[str, ...]) -> list[Outcome]:
    """Run programs side by side."""
    return [machine.end(process) for process in [machine.begin(*command) for command in commands]]


def test_programs_that_edit_at_once_lose_nothing(machine: Machine) -> None:
    fields = {"startup_timeout": 77.0, "name": "Mine", "role": "speech"}
    service = [("service", "edit", "asr", f"--{f.replace('_', '-')}", str(v)) for f, v in fields.items()]
    machine.ok("mode", "create", "mm", "--services", "asr")
    mode = [("mode", "edit", "mm", "--add", name) for name in ("tts", "embedding")]
    for done in at_once(machine, *service, *mode):
        assert done.code == 0, done
    shown = machine.ok("service", "show", "asr").json
    assert {field: shown["service"][field] for field in fields} == fields
    assert set(shown["edited"]) >= set(fields)
    assert set(machine.ok("mode", "show", "mm").json["services"]) == {"tts", "asr", "embedding"}


def test_programs_that_add_at_once_get_one_service_and_one_port(machine: Machine) -> None:
    ports = [machine.unused.pop(), machine.unused.pop()]
    same = [("same", ports[0])] * 2
    others = [(f"other-{n}", ports[1]) for n in range(2)]
    done = at_once(
        machine,
        *(
            ("service", "add", "--id", name, "--driver", "fastapi", "--port", str(port), "--vram-mb", "9",
             "--set", "command=run --port {port}")
            for name, port in (*same, *others)
        ),
    )  # fmt: skip
    refused = sorted(one.error["code"] for one in done if one.code)
    assert refused == ["port-conflict", "service-exists"], [str(one) for one in done]
    assert machine.sql("SELECT port, count(*) FROM services GROUP BY port HAVING count(*) > 1 AND port > 0") == []
