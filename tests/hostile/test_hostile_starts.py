"""Starts that cannot succeed are refused before the first stop; strangers survive; what runs is not lost."""

import json
import socket
import sys

import pytest

pytestmark = [pytest.mark.sim, pytest.mark.slow]
COMMAND = f'command=["{sys.executable}", "-m", "http.server", "{{port}}", "--bind", "{{host}}"]'
SERVER = ("--health-endpoint", "/", "--set", COMMAND)


@pytest.fixture
def small(machine):
    """The machine with a service of its own that runs, and a mode of it."""
    machine.port = machine.unused.pop()
    machine.ok(
        "service", "add", "--id", "web", "--driver", "fastapi", "--port", str(machine.port), "--vram-mb", "0", *SERVER
    )
    machine.ok("mode", "create", "mine", "--services", "web")
    machine.change("switch", "mine")
    assert machine.states() == {"web": "running"}
    return machine


def refused(machine, code, error, *args):
    """`args` fail with `code` and `error`, and everything is as it was before."""
    before = machine.status()["services"]
    done = machine.quick(*args)
    assert (done.code, done.error["code"]) == (code, error), str(done)
    after = machine.status()["services"]
    assert [(row["id"], row["state"], row["pid"]) for row in after] == [
        (row["id"], row["state"], row["pid"]) for row in before
    ]
    assert machine.status()["open_run"] is None
    return done


def add(machine, name, *sets, driver="fastapi"):
    port = machine.unused.pop()
    machine.ok("service", "add", "--id", name, "--driver", driver, "--port", str(port), "--vram-mb", "0", *sets)
    machine.ok("mode", "create", f"with-{name}", "--services", name)
    return port


def test_a_command_without_its_port_is_told_when_time_is_out(machine):
    command = json.dumps([sys.executable, "-c", "import time; time.sleep(60)"])
    port = add(machine, "deaf", "--set", f"command={command}")
    done = machine.change("service", "start", "deaf", "--timeout", "0.5", code=6)
    assert done.error["code"] == "start-timeout"
    assert done.error["why"].startswith(f"nothing listens on port {port} yet: its command does not use {{port}}")


def test_refused_before_the_first_stop(small):
    add(small, "no-binary", "--set", 'command=["a-program-that-is-not-there"]')
    done = refused(small, 9, "missing-binary", "switch", "with-no-binary")
    assert "a-program-that-is-not-there" in done.error["message"]
    add(small, "no-folder", "--set", f'command=["{sys.executable}"]', "--set", "cwd=/nonexistent/folder")
    done = refused(small, 1, "missing-folder", "switch", "with-no-folder")
    assert "/nonexistent/folder" in done.error["message"]
    add(small, "old", "--set", "command=x")
    edit_options(small, "old", '{"nope": 1}')
    refused(small, 2, "bad-service", "switch", "with-old")
    refused(small, 2, "bad-service", "service", "start", "old")
    done = refused(small, 4, "unknown-mode", "switch", "with-olds")
    assert "with-old" in done.error["hint"]


def edit_options(machine, service, options):
    """A row that is valid, but whose options its driver no longer takes: what an upgrade of a driver does."""
    import sqlite3

    connection = sqlite3.connect(machine.home / "gpumod.db")
    connection.execute(
        "UPDATE services SET definition=json_set(definition, '$.unit_vars', json(?)) WHERE id=?", (options, service)
    )
    connection.commit()
    connection.close()


def test_a_stranger_on_the_port_survives(small):
    port = add(small, "late", *SERVER)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        done = refused(small, 1, "port-taken", "switch", "with-late")
        assert str(port) in done.error["message"]
        refused(small, 1, "port-taken", "service", "start", "late")
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            pass
    small.change("service", "start", "late")


def test_editing_shows_the_drift_and_restarts_nothing(small):
    pid = next(row["pid"] for row in small.status()["services"] if row["id"] == "web")
    done = small.ok("service", "edit", "web", "--name", "Web", "--set", 'env={"A": "1"}').json
    assert done["drift"] == ["unit_vars"]  # the name holds at once
    assert done["apply"] == "gpumod service restart web"
    assert next(row["pid"] for row in small.status()["services"] if row["id"] == "web") == pid
    small.change("service", "restart", "web")
    assert small.ok("service", "show", "web").json["drift"] == []


def test_removing_what_runs(small):
    refused(small, 1, "in-modes", "service", "remove", "web")
    refused(small, 1, "still-running", "service", "remove", "web", "--cascade")
    refused(small, 1, "mode-is-current", "mode", "delete", "mine")
    small.change("service", "remove", "web", "--cascade", "--stop")
    assert small.states() == {}
    assert small.quick("service", "show", "web").code == 4
    small.nothing_left()


def test_a_definition_that_is_gone_while_it_runs(small):
    small.ok("mode", "edit", "mine", "--remove", "web")
    small.change("switch", "mine")
    assert small.states() == {}
    small.nothing_left()
