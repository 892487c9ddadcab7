"""Names that are not there, and texts that want to be something else, at every entrance."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import first

UNKNOWN = {
    "service show": ("service", "show", "glm-cod"),
    "service status": ("service", "status", "glm-cod"),
    "service edit": ("service", "edit", "glm-cod", "--port", "1"),
    "service remove": ("service", "remove", "glm-cod"),
    "service start": ("service", "start", "glm-cod"),
    "service stop": ("service", "stop", "glm-cod"),
    "service restart": ("service", "restart", "glm-cod"),
    "service sleep": ("service", "sleep", "glm-cod"),
    "service wake": ("service", "wake", "glm-cod"),
    "service logs": ("service", "logs", "glm-cod"),
    "mode create": ("mode", "create", "x", "--services", "glm-cod"),
    "mode edit": ("mode", "edit", "code", "--add", "glm-cod"),
    "simulate --add": ("simulate", "--mode", "code", "--add", "glm-cod"),
    "simulate --remove": ("simulate", "--mode", "code", "--remove", "glm-cod"),
    "simulate --services": ("simulate", "--services", "chat,glm-cod"),
    "simulate --context": ("simulate", "--mode", "code", "--context", "glm-cod=4096"),
    "preset show": ("preset", "show", "glm-cod"),
    "preset load": ("preset", "load", "glm-cod"),
    "depends-on": ("service", "edit", "chat", "--depends-on", "glm-cod"),
}
UNKNOWN_MODES = (
    ("switch", "spek"),
    ("mode", "switch", "spek"),
    ("mode", "show", "spek"),
    ("mode", "status", "spek"),
    ("mode", "verify", "spek"),
    ("mode", "edit", "spek", "--name", "x"),
    ("mode", "delete", "spek"),
    ("simulate", "--mode", "spek"),
)
OTHERS = {
    ("settings", "get", "reserve"): ("unknown-setting", "reserve_mb"),
    ("settings", "set", "reserve-mb", "5"): ("unknown-setting", "reserve_mb"),
    ("settings", "set", "gpu_probe", "simm"): ("unknown-gpu-probe", "sim"),
    ("settings", "set", "supervisor", "proces"): ("unknown-supervisor", "process"),
    ("history", "show", "nope"): ("unknown-run", ""),
    ("switch", "code", "--with", "nope"): ("unknown-alternative", ""),
    ("service", "edit", "chat", "--driver", "vlm"): ("unknown-driver", "vllm"),
    ("service", "edit", "chat", "--run-with", "nope"): ("unknown-supervisor", ""),
    ("service", "edit", "chat", "--unset", "nope"): ("unknown-option", ""),
}
HOSTILE = (
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "..",
    "a\nExecStart=/bin/sh",
    "a\rb",
    "a\x00b",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "[red]x[/red]",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "%n%h",
    "'quoted'",
    '"quoted"',
    "a b",
    "ünïcödé",
    "\u202egnp.exe",
    "x" * 10_000,
    "",
    "-",
    "--help-me",
    "{{ 7*7 }}",
    "a;DROP TABLE services",
    "'; DROP TABLE services; --",
)
ENTRANCES = (
    ("service", "show", "{}"),
    ("service", "remove", "{}"),
    ("service", "start", "{}"),
    ("service", "logs", "{}"),
    ("switch", "{}"),
    ("mode", "show", "{}"),
    ("mode", "delete", "{}"),
    ("mode", "create", "{}", "--services", "chat"),
    ("mode", "create", "fine", "--services", "{}x,{}"),
    ("simulate", "--add", "{}"),
    ("preset", "show", "{}"),
    ("preset", "load", "{}"),
    ("settings", "get", "{}"),
    ("settings", "set", "{}", "1"),
    ("history", "show", "{}"),
    ("switch", "code", "--with", "{}"),
    ("service", "edit", "chat", "--unset", "{}"),
    ("service", "edit", "chat", "--driver", "{}"),
    ("service", "edit", "chat", "--role", "{}/"),
    ("service", "edit", "asr", "--health-endpoint", "x{}"),
    ("service", "edit", "asr", "--sleep-mode", "{}/"),
    ("service", "edit", "asr", "--set", "{}"),
    ("service", "edit", "asr", "--set", "{}=1"),
    ("service", "edit", "asr", "--unit-template", "{}/../x"),
    ("service", "add", "--id", "{}", "--driver", "fastapi", "--port", "9", "--vram-mb", "0", "--set", "command=x"),
)
SHARES = 4
TEXTS = (
    "[red]x[/red]",
    "$(touch pwned)",
    "`id` %n %% $HOME",
    '"it\'s" \\',
    "ünïcödé 漢字 🙂",
    "-rf",
    "; true",
    "{{ 7*7 }}",
)


def test_an_unknown_service_is_named_with_the_one_that_is_close(home):
    for name, args in UNKNOWN.items():
        done = home.ask(*args, code=4)
        assert done.error["code"] in ("unknown-service", "unknown-preset"), name
        assert "glm-code" in done.error["hint"], name
        assert done.stderr == "", name


def test_an_unknown_mode_is_named_with_the_one_that_is_close(home):
    for args in UNKNOWN_MODES:
        done = home.ask(*args, code=4)
        assert done.error["code"] == "unknown-mode"
        assert "speak" in done.error["hint"], args


def test_other_unknown_names(home):
    for args, (code, close) in OTHERS.items():
        done = home.ask(*args, code=4)
        assert done.error["code"] == code, args
        assert close in done.error["hint"] + done.error["why"], args


@pytest.mark.parametrize("share", first(1, range(SHARES)))
def test_hostile_names_are_refused_everywhere_and_change_nothing(home, share):
    """Every name meets every entrance in one of the shares; in the first, each of them is met."""
    before = home.services(), home.modes()
    for number, text in enumerate(HOSTILE):
        for entrance in ENTRANCES[(number + share) % SHARES :: SHARES]:
            args = [word.replace("{}", text) for word in entrance]
            done = home.ask(*args)
            # A text that begins with a dash is taken for an option, and "-" is the previous mode: both are refused.
            assert done.code in (2, 4), (args, str(done))
            assert len(done.stdout) < 8000 or done.error["code"] == "usage", args
    assert (home.services(), home.modes()) == before


def test_hostile_texts_for_people_hold_no_control_characters(home):
    for text in HOSTILE:
        for entrance in (("service", "show"), ("switch",), ("settings", "get"), ("history", "show")):
            done = home.say(*entrance, "--", text)
            assert done.code in (2, 4)
            assert done.stdout == ""
            assert all(char.isprintable() or char == "\n" for char in done.stderr), (entrance, done.stderr)


@pytest.mark.parametrize("text", first(2, TEXTS))
def test_texts_are_stored_and_shown_as_themselves(home, text):
    home.ask("service", "edit", "asr", f"--name={text}", f"--model-id={text}", code=0)
    home.ask("service", "edit", "asr", "--set", f"env={json.dumps({'GREETING': text})}", code=0)
    home.ask("mode", "create", "mine", "--services", "asr", f"--name={text}", f"--description={text}", code=0)
    service = home.services()["asr"]
    assert (service["name"], service["model_id"]) == (text, text)
    assert service["unit_vars"]["env"]["GREETING"] == text
    assert home.ask("mode", "show", "mine").json["mode"]["description"] == text
    flat = "".join(home.say("service", "show", "asr", env={"COLUMNS": "300"}).stdout.split())
    assert "".join(text.split()) in flat
    assert "".join(text.split()) in "".join(home.say("mode", "show", "mine", env={"COLUMNS": "300"}).stdout.split())


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "\x1b[31mx", "a\x00b", "\u202ex", "x" * 10_000], ids=ascii)
def test_texts_with_control_characters_and_long_ones_are_refused(home, text):
    before = home.services()
    for args in (
        ("--name", text),
        ("--model-id", text),
        ("--model-path", text),
        ("--set", f"env={json.dumps({'A': text})}"),
        ("--set", f"cwd={text}"),
    ):
        assert home.ask("service", "edit", "asr", *args, code=2).error["code"] in ("bad-input", "bad-options")
    home.ask("mode", "create", "x", "--services", "asr", "--description", text, code=2)
    home.ask("settings", "set", "vllm_bin", f"x{text}x", code=2)
    assert home.services() == before


def test_settings_from_the_environment_are_checked_and_name_their_variable(home):
    for variable, value in {
        "GPUMOD_RESERVE_MB": "lots",
        "GPUMOD_BIND_HOST": "evil; rm",
        "GPUMOD_RELEASE_TIMEOUT_S": "nan",
        "GPUMOD_VLLM_BIN": "a\nb",
        "GPUMOD_SUPERVISOR": "../x",
        "GPUMOD_LOG_MAX_MB": "-1",
    }.items():
        done = home.ask("status", code=2, env={variable: value})
        assert done.error["code"] == "bad-setting"
        assert variable in done.error["message"]


WRONG_SETTINGS = (
    ("reserve_mb", "1.5"),
    ("reserve_mb", "-1"),
    ("reserve_mb", "99999999999"),
    ("release_timeout_s", "0"),
    ("release_timeout_s", "inf"),
    ("release_timeout_s", "nan"),
    ("bind_host", "localhost"),
    ("bind_host", ":::::"),
    ("bind_host", "999.1.1.1"),
    ("min_free_disk_mb", "x"),
    ("vllm_bin", ""),
)


def test_wrong_values_of_settings(home):
    before = home.ask("settings", "list").json
    for key, value in WRONG_SETTINGS:
        assert home.ask("settings", "set", "--", key, value, code=2).error["code"] == "bad-setting", (key, value)
    assert home.ask("settings", "list").json == before


def test_a_setting_goes_back_to_its_default(home):
    home.ask("settings", "set", "reserve_mb", "700", code=0)
    assert home.ask("settings", "get", "reserve_mb").json["value"] == "700"
    assert home.ask("settings", "set", "reserve_mb", "--default", code=0).json["value"] == "512"
    home.ask("settings", "set", "reserve_mb", code=2)
    home.ask("settings", "set", "reserve_mb", "1", "--default", code=2)


@pytest.mark.parametrize("name", first(2, ["$(touch pwned)", "ünïcödé", "with space", "[red]x", '%h"q', "-x", "a'b"]))
def test_homes_with_odd_paths_work(tmp_path: Path, bare, name):
    bare.path = tmp_path / name
    bare.init()
    assert bare.ask("simulate", "--mode", "code", code=0).json["verdict"] == "fits"
    assert bare.ask("status", code=0).json["services"]
    assert {path.name for path in tmp_path.iterdir()} <= {name, "outside"}


def test_homes_that_cannot_be(tmp_path: Path, bare):
    file = tmp_path / "file"
    file.write_text("mine")
    for path, exit_code, code in (
        (file, 2, "usage"),  # an option that names a file is refused as such
        (file / "x", 9, "no-home"),
        (tmp_path / ("x" * 300), 9, "no-home"),
        (Path("/proc/nope"), 9, "no-home"),
        (tmp_path / "a\nb", 2, "bad-home"),
        (tmp_path / "\x1b[31mx", 2, "bad-home"),
    ):
        bare.path = path
        nothing_there = path == Path("/proc/nope")  # for what makes no home that is all there is to say
        asked = (2, "no-such-home") if nothing_there else (exit_code, code)
        assert bare.ask("status", code=asked[0]).error["code"] == asked[1]
        assert bare.ask("init", "--yes", "--sim", "X:1000", code=exit_code).error["code"] == code
    assert file.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "outside"}


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's folder takes root")
def test_a_home_that_may_not_be_looked_into_is_not_said_to_be_missing(tmp_path: Path):
    shut = tmp_path / "theirs"
    shut.mkdir(mode=0o700)
    program = """if True:
        import os, sys
        from pathlib import Path
        from gpumod.bootstrap import open_gpumod
        from gpumod.domain.errors import GpumodError
        os.setuid(65534)
        try:
            open_gpumod(Path(sys.argv[1]), {}, make_named=False)
        except GpumodError as error:
            print(error.info.code, error.info.why)
    """
    argv = [sys.executable, "-c", program, str(shut / "home")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("no-home "), done
    assert "Permission denied" in done.stdout


@pytest.mark.slow
def test_a_home_in_the_environment_that_is_a_file(tmp_path: Path, bare):
    file = tmp_path / "file"
    file.write_text("mine")
    done = bare.process("--version", code=0)
    assert done.stdout.startswith("gpumod")
    for value, exit_code, code in ((str(file), 9, "no-home"), (str(tmp_path / "a\nb"), 2, "bad-home")):
        run = subprocess.run(
            [sys.executable, "-m", "gpumod", "--json", "status"],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "GPUMOD_HOME": value},
        )
        assert run.returncode == exit_code, run
        assert json.loads(run.stdout)["error"]["code"] == code
    assert file.read_text() == "mine"
