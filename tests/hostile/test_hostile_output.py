"""What is printed, and where: one JSON document, errors on stderr, quiet pipes, narrow and dumb terminals."""

import json
import os
import shutil
import subprocess
import sys

import click
import pytest
import yaml
from click.testing import CliRunner

from gpumod.cli.main import root
from tests.cases import first

GOOD = (
    ("status",), ("ps",), ("doctor",), ("plugins",), ("plugins", "list"), ("plugins", "check", "router"),
    ("completion", "bash"), ("mode", "list"), ("mode", "show", "code"),
    ("mode", "status", "code"), ("mode", "create", "mine", "--services", "chat"),
    ("mode", "edit", "mine", "--name", "x"), ("mode", "delete", "mine"), ("switch", "blank"),
    ("mode", "verify", "blank"), ("switch", "code", "--dry-run"), ("mode", "switch", "blank"),
    ("service", "list"), ("service", "show", "chat"), ("service", "status", "chat"), ("service", "logs", "chat"),
    ("service", "edit", "chat", "--name", "x"), ("service", "start", "asr", "--dry-run"), ("service", "stop", "asr"),
    ("service", "wake", "asr", "--dry-run"), ("service", "restart", "asr", "--dry-run"),
    ("service", "sleep", "asr", "--dry-run"), ("simulate", "--mode", "code"), ("preset", "list"),
    ("preset", "show", "chat"), ("preset", "load"), ("preset", "validate"), ("history", "list"), ("history", "show"),
    ("history", "simulations"), ("recover",), ("settings", "list"), ("settings", "get", "reserve_mb"),
    ("settings", "set", "reserve_mb", "512"), ("service", "remove", "reranker-base"), ("sim", "ledger"), ("export",),
    ("init", "--yes", "--sim", "RTX 4090:24564"), ("--version",),
    ("service", "sleep-idle"),
    ("watch", "--once"), ("free", "1", "--dry-run"), ("template", "list"), ("template", "show", "unit.service.j2"),
    ("template", "render", "unit.service.j2", "asr"),
    ("template", "edit", "vllm.service.j2", "--default"), ("service", "secret", "list", "asr"),
    ("service", "edit", "asr", "--run-with", "systemd-user"), ("service", "unit", "asr"),
    ("service", "edit", "asr", "--unset", "run_with"),
    ("service", "add", "--id", "mine", "--driver", "fastapi", "--port", "9108", "--vram-mb", "0", "--set", "command=x"),
)  # fmt: skip
NOT_HERE = {"demo"}


def commands(group: click.Group, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    found: dict[tuple[str, ...], click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        here = (*words, name)
        found |= commands(command, here) if isinstance(command, click.Group) else {here: command}
    return found


OLLAMA = """#!{python}
import http.server

class Ollama(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        models = b'{{"models": [{{"name": "a\\\\u001b[31m", "size": 5000000000}}]}}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(models)))
        self.end_headers()
        self.wfile.write(models)

    def log_message(self, *_words):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ollama)
print(server.server_port, flush=True)
server.serve_forever()
"""
"""As much of ollama as tells what it is and has."""


@pytest.fixture
def neighbours(tmp_path):
    """What others run, as commands that adopt and import it."""
    swap = tmp_path / "swap.yaml"
    swap.write_text("models: {small: {cmd: 'llama-server --port ${PORT} -m /m/x.gguf'}}")
    ollama = tmp_path / "ollama"
    ollama.write_text(OLLAMA.format(python=sys.executable))
    ollama.chmod(0o755)
    program = (
        "import http.server as h; h.ThreadingHTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler).serve_forever()"
    )
    with (
        subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as process,
        subprocess.Popen([ollama, "serve"], stdout=subprocess.PIPE, text=True) as server,
    ):
        port = server.stdout.readline().strip()
        yield (
            ("service", "adopt", str(process.pid), "--id", "them", "--port", "9109"), ("service", "release", "them"),
            ("import", "llama-swap", str(swap)), ("import", "ollama", "--port", port, "--dry-run"),
        )  # fmt: skip
        process.kill()
        server.kill()


@pytest.mark.slow
def test_every_command_prints_one_document_when_all_is_well(home, neighbours):
    box = home.path.parent / "box.yaml"
    box.write_text(home.say("export", code=0).stdout)
    new = ("plugins", "new", "acme", "--folder", str(home.path.parent))
    asked = (*GOOD, *neighbours, new, ("diff", "-f", str(box)), ("apply", "-f", str(box), "--dry-run"))
    for args in asked:
        done = home.ask(*args)
        # What doctor finds depends on the computer that it runs on.
        assert done.code == 0 or args == ("doctor",), (args, str(done))
        if args[-1] != "--version":
            assert home.say(*args, "--json").json is not None, args
    covered = {args[:n] for args in asked for n in (1, 2)}
    missing = {words for words in commands(root) if words[:2] not in covered and words[0] not in {"sim", *NOT_HERE}}
    assert missing == {("service", "turn")}  # it runs a command, whose output is its own


def test_every_command_prints_one_document_for_bad_input(home):
    for words, command in commands(root).items():
        done = home.ask(*words, "--no-such-option", code=2)
        assert done.error["code"] == "usage", words
        assert done.stderr == "", words
        required = [p for p in command.params if isinstance(p, click.Argument) and p.required]
        if required and not isinstance(required[0].type, click.Choice) and words[0] != "sim":
            done = home.ask(*words, *["no_such_thing"] * len(required))  # nor a name to write
            assert done.code in (0, 1, 2, 4), (words, str(done))
        done = home.say(*words, "--no-such-option", code=2)
        assert done.stdout == "", words
        assert "no-such-option" in done.stderr, words


def test_the_program_without_arguments_and_its_version(home):
    bare = subprocess.run([sys.executable, "-m", "gpumod"], capture_output=True, text=True, check=False)
    assert (bare.returncode, bare.stdout) == (2, "")
    assert "Commands:" in bare.stderr
    assert home.ask(code=2).error["message"] == "Missing command."
    assert home.ask("service", code=2).error["message"] == "Missing command."
    assert home.process("--version", code=0).stdout.startswith("gpumod, version ")
    assert home.process("--json", "--version", code=0).json["version"]


def test_errors_go_to_stderr_and_name_what_to_try(home):
    done = home.process("switch", "spek", code=4)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: there is no mode 'spek' (unknown-mode)",
        "  why: there are: blank, code, rag, speak",
        "  try: did you mean speak?",
    ]


def test_commands_that_hints_name_exist(home):
    """Whatever is misspelt, the hint that begins with gpumod is a command."""
    for args in (
        ("switch", "x"),
        ("service", "show", "x"),
        ("settings", "get", "x"),
        ("preset", "show", "x"),
        ("history", "show"),
    ):
        hint = home.ask(*args).error["hint"]
        words = hint.partition("gpumod ")[2].strip("`").split()
        assert tuple(words[:2]) in commands(root), (args, hint)


@pytest.mark.parametrize("columns", first(2, [1, 80, 20, 40, 400]))
def test_narrow_and_dumb_terminals(home, columns):
    env = {"COLUMNS": str(columns), "TERM": "dumb", "NO_COLOR": "1"}
    for args in (
        ("status", "--visual"), ("simulate", "--mode", "rag", "--visual"), ("mode", "list"),
        ("simulate", "--mode", "code", "--add", "chat"), ("service", "list"), ("doctor",), ("history", "list"),
        ("plugins",),
    ):  # fmt: skip
        done = home.say(*args, env=env)
        assert done.code in (0, 3) or args == ("doctor",), (args, str(done))
        assert done.stdout


def test_a_closed_pipe_is_quiet(home):
    for args in (("--help",), ("preset", "list", "--json")):
        program = " ".join(map(subprocess.list2cmdline, [[word] for word in home.argv(*args)]))
        done = subprocess.run(["sh", "-c", f"{program} | head -c 1"], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, args
        assert "BrokenPipe" not in done.stderr, args


def test_documents_are_utf_8_whatever_the_locale(home):
    home.ask("service", "edit", "chat", "--name", "Größe ☃", code=0)

    def printed(*args):
        done = CliRunner(charset="ascii").invoke(root, ["--home", str(home.path), *args])
        assert done.exit_code == 0, done.output
        return done.stdout_bytes.decode()

    assert json.loads(printed("service", "show", "chat", "--json"))["service"]["name"] == "Größe ☃"
    services = {entry["id"]: entry for entry in yaml.safe_load(printed("export"))["services"]}
    assert services["chat"]["name"] == "Größe ☃"
    assert "Gr\\xf6\\xdfe" in printed("service", "show", "chat")  # for people, in what their terminal can show


@pytest.mark.slow
def test_closed_streams_are_no_traceback(home):
    for close in (">&- <&-", "2>&-", ">/dev/full"):
        program = " ".join(map(subprocess.list2cmdline, [[word] for word in home.argv("mode", "list")]))
        done = subprocess.run(["sh", "-c", f"{program} {close}"], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, (close, done.stderr)


@pytest.mark.slow
def test_a_closed_stdin_gives_nothing(home):
    for argv, code in ((["init"], 0), (["apply", "-f", "-"], 2), (["service", "secret", "set", "hyde", "A"], 2)):
        program = " ".join(map(subprocess.list2cmdline, [[word] for word in home.argv(*argv)]))
        done = subprocess.run(["sh", "-c", f"{program} <&-"], capture_output=True, text=True, check=False)
        assert done.returncode == code, done
        assert "a bug in gpumod" not in done.stdout + done.stderr, done


@pytest.mark.slow
def test_a_width_of_nothing_is_one_that_is_not_known(home):
    words = [sys.executable, "-m", "gpumod", "--home", str(home.path), "mode", "list"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "COLUMNS": "0"}, check=True)
    assert "blank" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_valid(home, shell):
    script = home.say("completion", shell, code=0).stdout
    assert "_GPUMOD_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_completion_says_nothing_when_the_home_is_broken(home):
    home.no_database()
    home.database.write_bytes(b"no database")
    env = {
        "_GPUMOD_COMPLETE": "bash_complete",
        "COMP_WORDS": "gpumod switch ",
        "COMP_CWORD": "2",
        "GPUMOD_HOME": str(home.path),
    }
    done = subprocess.run([sys.executable, "-m", "gpumod"], capture_output=True, text=True, env=env, check=False)
    assert "Traceback" not in done.stderr
    json.dumps(done.stdout)


@pytest.mark.slow
def test_why_something_was_refused_is_told_though_stdout_is_full(home):
    home.ask("mode", "create", "big", "--services", "glm-code,chat", code=0)
    words = [*home.argv("switch", "big")]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert "(does-not-fit)" in done.stderr
