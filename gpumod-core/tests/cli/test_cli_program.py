"""The program: every command, its help, its errors, its exit statuses, and what it costs to start."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from gpumod import __version__
from gpumod.cli.failures import INTERRUPTED, exit_status_of, report
from gpumod.cli.lazy import OperationCommand
from gpumod.cli.main import root
from gpumod.cli.streams import PIPE_CLOSED
from gpumod.cli.table import COMMANDS
from gpumod.domain import errors
from gpumod.operations.catalogue import OPERATIONS

HEAVY = ("pydantic", "sqlmodel", "sqlalchemy", "rich", "httpx", "importlib_metadata", "asyncio", "jinja2", "pluggy")


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from walk(inner, (*path, name))


def own_commands() -> dict[tuple[str, ...], click.Command]:
    """Every command of this distribution by its path."""
    context = click.Context(root)
    tops = [(name, root.get_command(context, name)) for name in COMMANDS]
    return {path: found for name, top in tops if top is not None for path, found in walk(top, (name,))}


OWN = own_commands()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


def run(home: Path, *args: str) -> Result:
    return CliRunner().invoke(root, ["--home", str(home), *args])


def error_of(result: Result) -> dict[str, str]:
    found = json.loads(result.stdout)["error"]
    assert isinstance(found, dict)
    assert {"code", "message", "why", "hint"} <= set(found)
    return found


def test_every_operation_has_one_command_and_every_command_an_operation() -> None:
    leaves = {id(found): found for found in OWN.values() if not isinstance(found, click.Group)}
    operations = [found.operation for found in leaves.values() if isinstance(found, OperationCommand)]
    assert len(operations) == len(leaves)
    assert sorted(name for name in operations if name) == sorted(operation.name for operation in OPERATIONS)
    assert [found.name for found in leaves.values() if getattr(found, "operation", "") is None] == [
        "completion",
        "demo",
    ]


def test_mode_switch_is_switch() -> None:
    assert OWN["mode", "switch"] is OWN["switch",]


@pytest.mark.parametrize("path", OWN, ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(root, [*path, "--help"])
    assert result.exit_code == 0
    assert (OWN[path].help or "").strip().endswith((".", "`."))
    assert isinstance(OWN[path], click.Group) or "--json" in result.stdout
    for param in OWN[path].params:
        assert isinstance(param, click.Argument) or getattr(param, "help", None), param.name


def test_help_lists_every_command_with_its_line() -> None:
    text = CliRunner().invoke(root, ["--help"]).stdout
    for name, entry in COMMANDS.items():
        assert f"  {name}" in text
        assert entry.help in text


def test_short_helps_say_what_the_commands_say() -> None:
    for name, entry in COMMANDS.items():
        assert len(entry.help) <= 64, name
        assert OWN[name,].name == name


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["switch", "--help"], ["service", "add", "--help"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys\nfrom gpumod.cli.main import root\n"
        f"try: root.main({args!r})\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_python_m_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "gpumod", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"gpumod, version {__version__}\n"


@pytest.mark.parametrize(
    "args",
    [
        ["swich"],
        ["switch"],
        ["switch", "a", "b"],
        ["status", "--nope"],
        ["status", "--watch"],
        ["recover", "--resume", "--rollback"],
        ["simulate"],
        ["simulate", "--mode", "a", "--services", "b"],
        ["simulate", "--mode", "a", "--context", "x"],
        ["settings", "set", "reserve_mb"],
        ["settings", "set", "reserve_mb", "1", "--default"],
        ["service", "add", "--id", "x", "--set", "novalue"],
        ["service", "add", "--id", "x", "--port", "many"],
        ["mode", "create", "m", "--services", "a", "--sleep-on-idle", "a", "--asleep", "a"],
        ["init", "--sim", "card"],
        ["completion", "tcsh"],
        ["diff"],
        ["free"],
        ["free", "many"],
        ["free", "1", "--back"],
        ["free", "1", "--for", "soon"],
        ["free", "1", "--for", "0s"],
        ["apply", "--now"],
    ],
    ids=" ".join,
)
def test_usage_errors_exit_2_in_both_forms(home: Path, args: list[str]) -> None:
    in_json = run(home, *args, "--json")
    assert in_json.exit_code == 2
    assert error_of(in_json)["code"] == "usage"
    if args[-1] != "--watch":
        plain = run(home, *args)
        assert plain.exit_code == 2
        assert plain.stdout == ""
        assert "Error: " in plain.stderr


def test_a_misspelt_command_is_guessed(home: Path) -> None:
    assert "Did you mean 'switch'" in run(home, "swithc").stderr


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["service", "show", "a/b"], "SERVICE: is not a name"),
        (["service", "start", "x", "--timeout", "0"], "--timeout: "),
        (["simulate", "--mode", "a\nb"], "mode"),
        (["simulate", "--mode", "a", "--gpu-total", "0"], "--gpu-total: "),
        (["history", "list", "-n", "0"], "limit"),
        (["service", "logs", "x", "-n", "0"], "lines"),
        (["mode", "create", "-x", "--services", ""], ""),
        (["init", "--sim", "card:1"], "--sim: "),
    ],
)
def test_bad_input_names_the_field(home: Path, args: list[str], named: str) -> None:
    result = run(home, "--json", *args)
    assert result.exit_code == 2
    assert named in error_of(result)["why"]
    assert f"gpumod {args[0]}" in error_of(result)["hint"]


def test_unknown_names_exit_4(home: Path) -> None:
    for args in (
        ["service", "show", "nope"],
        ["mode", "show", "nope"],
        ["settings", "get", "nope"],
        ["switch", "nope"],
    ):
        result = run(home, "--json", *args)
        assert (result.exit_code, args) == (4, args)
        plain = run(home, *args)
        assert plain.stdout == ""
        assert plain.stderr.startswith("error: ")


def test_json_works_before_and_after_the_command(home: Path) -> None:
    for args in (["--json", "settings", "list"], ["settings", "list", "--json"], ["settings", "--help"]):
        result = run(home, *args)
        assert result.exit_code == 0
        assert "--help" in args or json.loads(result.stdout)["settings"]


def test_what_is_defined_on_the_command_line_arrives(home: Path) -> None:
    added = run(
        home, "--json", "service", "add", "--id", "echo", "--driver", "fastapi", "--port", "18999", "--vram-mb", "500",
        "--name", "Echo", "--startup-timeout", "12.5", "--health-endpoint", "/up", "--role", "echo", "--gpus", "0",
        "--pinned", "--set", "command=uvicorn app:app --port {port}", "--set", 'env={"A": "1"}',
    )  # fmt: skip
    if added.exit_code:
        assert error_of(added)["code"] in ("unknown-driver", "unknown-plugin"), added.stdout
        pytest.skip("the fastapi driver is not installed")
    service = json.loads(run(home, "--json", "service", "show", "echo").stdout)["service"]
    assert service["gpus"] == [0]
    assert service["unit_vars"] == {"command": "uvicorn app:app --port {port}", "env": {"A": "1"}}
    assert (service["pinned"], service["startup_timeout"], service["health_endpoint"]) == (True, 12.5, "/up")
    assert run(home, "mode", "create", "m", "--services", "echo", "--sleep-on-idle", "echo").exit_code == 0
    edit = ("mode", "edit", "m", "--awake", "echo", "--start-order", "echo=3", "--idle-timeout", "echo=60")
    edited = json.loads(run(home, "--json", *edit).stdout)
    member = {"service": "echo", "want": "awake", "start_order": 3, "idle_timeout": 60.0}
    assert edited["mode"]["members"] == [member]
    assert json.loads(run(home, "--json", "mode", "edit", "m", "--remove", "echo").stdout)["services"] == []
    refused = run(home, "--json", "mode", "edit", "m", "--remove", "echo")
    assert (refused.exit_code, error_of(refused)["code"]) == (2, "not-a-member")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.Failed("a", "b"), 1),
        (errors.UsageError("a", "b"), 2),
        (errors.DoesNotFit("a", "b"), 3),
        (errors.UnknownName("a", "b"), 4),
        (errors.Busy("a", "b"), 5),
        (errors.RolledBack("a", "b"), 6),
        (errors.HalfWay("a", "b"), 7),
        (errors.Stale("a", "b"), 8),
        (errors.MachineLacks("a", "b"), 9),
        (errors.Interrupted("a", "b"), INTERRUPTED),
        (click.UsageError("b"), 2),
        (KeyboardInterrupt(), INTERRUPTED),
        (ValueError("b"), 1),
        (OSError(errno.ENOSPC, "b"), 9),
        (OSError(errno.ENOENT, "b"), 1),
    ],
)
def test_errors_have_their_exit_status(error: BaseException, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status_of(error) == status
    report(error, as_json=True, debug=False)
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"]
    assert err == ""
    report(error, as_json=False, debug=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err


def test_a_traceback_needs_debug(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("odd")
    except ValueError as error:
        report(error, as_json=False, debug=True)
        report(error, as_json=False, debug=False)
    err = capsys.readouterr().err
    assert err.count("Traceback") == 1
    assert err.count("a bug in gpumod: ValueError: odd") == 2


def test_errors_show_hostile_text(capsys: pytest.CaptureFixture[str]) -> None:
    report(errors.Failed("x", "\x1b[31m[red]\nx", why="a\x07\nb"), as_json=False, debug=False)
    assert capsys.readouterr().err == "error: [red] x (x)\n  why: a\n       b\n"


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    command = [sys.executable, "-m", "gpumod", "--home", str(home), "settings", "list"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (PIPE_CLOSED, "")


NO_ROOM = "error: the output could not be written: No space left on device (cannot-write)\n"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


@needs_full
@pytest.mark.parametrize("args", [pytest.param(["--json", "settings", "list"], marks=pytest.mark.slow), ["--help"]])
def test_a_full_disk_is_one_plain_line(home: Path, args: list[str]) -> None:
    command = [sys.executable, "-m", "gpumod", "--home", str(home), *args]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, NO_ROOM)


@needs_full
@pytest.mark.parametrize(
    ("args", "full", "gone"),
    [
        pytest.param(["settings", "set", "reserve_mb", "600"], 0, 0, marks=pytest.mark.slow),
        pytest.param(["settings", "set", "reserve_mb", "600", "--json"], 0, 0, marks=pytest.mark.slow),
        pytest.param(["settings", "get", "nope", "--json"], 4, 4, marks=pytest.mark.slow),
        (["bogus", "--json"], 2, 2),
        pytest.param(["settings", "list"], 1, PIPE_CLOSED, marks=pytest.mark.slow),
        pytest.param(["simulate", "--services", "", "--gpu-total", "1000"], 1, PIPE_CLOSED, marks=pytest.mark.slow),
    ],
)
def test_the_exit_status_tells_what_was_done_where_nothing_can_be_printed(
    home: Path, args: list[str], full: int, gone: int
) -> None:
    command = [sys.executable, "-m", "gpumod", "--home", str(home), *args]
    reader, writer = os.pipe()
    os.close(reader)
    with Path("/dev/full").open("w") as no_room, os.fdopen(writer, "w") as closed:
        assert subprocess.run(command, stdout=no_room, stderr=no_room, check=False).returncode == full
        assert subprocess.run(command, stdout=closed, stderr=closed, check=False).returncode == gone


@pytest.mark.slow
def test_a_closed_output_is_nobodys_fault(home: Path) -> None:
    command = f"{sys.executable} -m gpumod --home {home} settings list --json >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_stderr_takes_everything() -> None:
    code = "import sys; from gpumod.cli import streams; streams.prepare(); print('x', file=sys.stderr); print('done')"
    done = subprocess.run(["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_tracebacks_are_kept_for_debug(home: Path) -> None:
    log = logging.getLogger("gpumod")
    for words, kept in ([], True), (["--debug"], False):
        run(home, *words, "settings", "list")
        assert [type(handler) for handler in log.handlers] == [logging.NullHandler] * kept
