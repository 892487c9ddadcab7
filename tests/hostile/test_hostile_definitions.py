"""Defining services and modes: every option, wrong types, conflicts, circles; what was edited stays."""

import itertools

import pytest

FASTAPI = ("--driver", "fastapi", "--set", 'command=["python", "-c", "pass"]')
ADD = {
    "fastapi": (
        "--driver", "fastapi", "--port", "9100", "--vram-mb", "100", "--name", "Mine", "--depends-on", "chat",
        "--sleep-mode", "http", "--asleep-mb", "10", "--start-peak-mb", "120", "--startup-timeout", "30",
        "--health-endpoint", "/ready", "--role", "mine", "--gpus", "0", "--run-with", "process", "--pinned",
        "--unit-template", "mine.j2", "--set", "command=python -m http.server", "--set", "cwd=/tmp",
        "--set", 'env={"A": "b=c %n $HOME"}', "--set", "sleep_path=/sleep", "--set", "wake_path=/wake",
    ),
    "vllm": (
        "--driver", "vllm", "--port", "9100", "--vram-mb", "4000", "--model-id", "org/model", "--context-size", "8192",
        "--kv-cache-per-1k", "50", "--sleep-mode", "l1", "--set", "enforce_eager=true", "--set", "max_num_seqs=8",
    ),
    "llamacpp": (
        "--driver", "llamacpp", "--port", "9100", "--vram-mb", "4000", "--model-path", "/models/a b%.gguf",
        "--context-size", "8192", "--set", "n_gpu_layers=20", "--set", "flash_attn=on",
    ),
    "llamacpp member": (
        "--driver", "llamacpp", "--vram-mb", "4000", "--model-path", "/models/m.gguf", "--host-service", "llama-router",
        "--sleep-mode", "router",
    ),
}  # fmt: skip
WRONG = {
    "no driver": (("--port", "9"), 2, "bad-input"),
    "unknown driver": (("--driver", "nope", "--port", "9"), 4, "unknown-driver"),
    "no port": (FASTAPI, 2, None),
    "port 0": ((*FASTAPI, "--port", "0"), 2, "bad-input"),
    "port 65536": ((*FASTAPI, "--port", "65536"), 2, "bad-input"),
    "port x": ((*FASTAPI, "--port", "x"), 2, "usage"),
    "port of another": ((*FASTAPI, "--port", "7801"), 2, "port-conflict"),
    "negative vram": ((*FASTAPI, "--port", "9", "--vram-mb", "-1"), 2, "bad-input"),
    "huge vram": ((*FASTAPI, "--port", "9", "--vram-mb", "9" * 30), 2, "bad-input"),
    "vram 1.5": ((*FASTAPI, "--port", "9", "--vram-mb", "1.5"), 2, "usage"),
    "peak below": ((*FASTAPI, "--port", "9", "--vram-mb", "9", "--start-peak-mb", "8"), 2, "bad-input"),
    "asleep above": ((*FASTAPI, "--port", "9", "--vram-mb", "9", "--asleep-mb", "10"), 2, "bad-input"),
    "path of no variable": ((*FASTAPI, "--port", "9", "--model-path", "$NOPE/x"), 2, "bad-path"),
    "option of no variable": ((*FASTAPI, "--port", "9", "--set", "cwd=${MODEL_DIR}/x"), 2, "bad-path"),
    "timeout 0": ((*FASTAPI, "--port", "9", "--startup-timeout", "0"), 2, "bad-input"),
    "timeout nan": ((*FASTAPI, "--port", "9", "--startup-timeout", "nan"), 2, "bad-input"),
    "timeout inf": ((*FASTAPI, "--port", "9", "--startup-timeout", "inf"), 2, "bad-input"),
    "kv nan": ((*FASTAPI, "--port", "9", "--kv-cache-per-1k", "nan"), 2, "bad-input"),
    "context 0": ((*FASTAPI, "--port", "9", "--context-size", "0"), 2, "bad-input"),
    "gpus twice": ((*FASTAPI, "--port", "9", "--gpus", "0,0"), 2, "bad-input"),
    "gpus 300": ((*FASTAPI, "--port", "9", "--gpus", "300"), 2, "bad-input"),
    "gpus x": ((*FASTAPI, "--port", "9", "--gpus", "x"), 2, "usage"),
    "endpoint elsewhere": ((*FASTAPI, "--port", "9", "--health-endpoint", "http://evil"), 2, "bad-input"),
    "depends on nobody": ((*FASTAPI, "--port", "9", "--depends-on", "nobody"), 4, "unknown-service"),
    "depends on itself": ((*FASTAPI, "--port", "9", "--depends-on", "mine"), 2, "bad-input"),
    "host that hosts none": (("--driver", "llamacpp", "--model-path", "/m", "--host-service", "asr"), 2, None),
    "host of nobody": (("--driver", "llamacpp", "--model-path", "/m", "--host-service", "x"), 4, "unknown-service"),
    "member with port": (
        ("--driver", "llamacpp", "--model-path", "/m", "--host-service", "llama-router", "--port", "9"),
        2, "bad-options",
    ),
    "supervisor of what was adopted": ((*FASTAPI, "--port", "9", "--run-with", "adopted-user"), 2, "no-choice"),
    "unknown supervisor": ((*FASTAPI, "--port", "9", "--run-with", "nope"), 4, "unknown-supervisor"),
    "template elsewhere": ((*FASTAPI, "--port", "9", "--unit-template", "../../etc/passwd"), 2, "bad-input"),
    "template upwards": ((*FASTAPI, "--port", "9", "--unit-template", "/a/../etc/passwd"), 2, "bad-input"),
    "no command": (("--driver", "fastapi", "--port", "9"), 2, "bad-options"),
    "command 5": (("--driver", "fastapi", "--port", "9", "--set", "command=5"), 2, "bad-options"),
    "empty command": (("--driver", "fastapi", "--port", "9", "--set", "command=[]"), 2, "bad-options"),
    "open quote": (("--driver", "fastapi", "--port", "9", "--set", 'command="a'), 2, "bad-options"),
    "unknown option": ((*FASTAPI, "--port", "9", "--set", "nope=1"), 2, "bad-options"),
    "no value": ((*FASTAPI, "--port", "9", "--set", "cwd"), 2, "usage"),
    "no key": ((*FASTAPI, "--port", "9", "--set", "=x"), 2, "usage"),
    "twice": ((*FASTAPI, "--port", "9", "--set", "cwd=a", "--set", "cwd=b"), 2, "usage"),
    "env of a line": ((*FASTAPI, "--port", "9", "--set", 'env={"A": "b\\nC=d"}'), 2, "bad-input"),
    "env that decides": ((*FASTAPI, "--port", "9", "--set", 'env={"LD_PRELOAD": "x"}'), 2, "bad-options"),
    "sleep elsewhere": ((*FASTAPI, "--port", "9", "--set", "sleep_path=http://evil/"), 2, "bad-options"),
    "vllm without model": (("--driver", "vllm", "--port", "9", "--vram-mb", "9"), 2, "bad-options"),
    "vllm without size": (("--driver", "vllm", "--port", "9", "--model-id", "m"), 2, "bad-options"),
    "vllm model flag": (("--driver", "vllm", "--port", "9", "--vram-mb", "9", "--model-id", "--x"), 2, "bad-options"),
    "vllm level": (
        ("--driver", "vllm", "--port", "9", "--vram-mb", "9", "--model-id", "m", "--sleep-mode", "l9"),
        2, "bad-options",
    ),
    "vllm utilization": (
        ("--driver", "vllm", "--port", "9", "--model-id", "m", "--set", "gpu_memory_utilization=2"), 2, "bad-options",
    ),
    "llamacpp without model": (("--driver", "llamacpp", "--port", "9"), 2, "bad-options"),
}  # fmt: skip


@pytest.mark.parametrize("options", ADD.values(), ids=ADD)
def test_adding_with_every_option(home, options):
    added = home.ask("service", "add", "--id", "mine", *options, code=0).json["service"]
    assert home.services()["mine"] == added
    given = {name.lstrip("-").replace("-", "_"): value for name, value in itertools.pairwise(options)}
    for field in ("driver", "name", "model_id", "model_path", "role", "unit_template", "health_endpoint"):
        if field in given:
            assert added[field] == given[field]
    assert home.ask("service", "add", "--id", "mine", *options, code=2).error["code"] == "service-exists"
    home.ask("service", "remove", "mine", code=0)
    assert "mine" not in home.services()


def test_wrong_definitions_are_refused_and_change_nothing(home):
    before = home.services()
    for name, (options, exit_code, code) in WRONG.items():
        done = home.ask("service", "add", "--id", "mine", *options)
        assert done.code == exit_code, (name, str(done))
        assert code in (None, done.error["code"]), (name, str(done))
        assert done.error["message"], name
        assert done.error["why"] or done.error["hint"], name
        assert "literal[" not in done.error["why"], (name, str(done))
    assert home.services() == before


def test_variables_in_paths_are_those_of_presets(home, tmp_path):
    home.ask("settings", "set", "models_dir", str(tmp_path), code=0)
    options = (
        "--vram-mb",
        "0",
        "--model-path",
        "$MODELS_DIR/m.gguf",
        "--set",
        "cwd=${MODELS_DIR}",
        "--set",
        "command=$X",
    )
    added = home.ask("service", "add", "--id", "mine", "--driver", "fastapi", "--port", "9100", *options, code=0).json
    assert added["service"]["model_path"] == f"{tmp_path}/m.gguf"
    assert added["service"]["unit_vars"] == {"cwd": str(tmp_path), "command": "$X"}
    edited = home.ask("service", "edit", "mine", "--model-path", "/a $$b", code=0).json["service"]
    assert edited["model_path"] == "/a $b"
    assert home.ask("service", "edit", "mine", "--name", "x", code=0).json["service"]["model_path"] == "/a $b"
    refused = home.ask("service", "edit", "mine", "--model-path", "$MODEL_DIR/x", code=2).error
    assert "--model-path: uses '$MODEL_DIR', which is no variable (did you mean $MODELS_DIR?" in refused["why"]


def test_a_gpu_that_this_machine_has_not_is_said(home):
    told = "it cannot start on this machine, which has no GPU 7 (it has GPU 0)"
    assert home.add("mine", 9100, "--gpus", "0,7").json["notes"] == [told]
    assert home.ask("service", "edit", "mine", "--gpus", "7", code=0).json["notes"] == [told]
    assert told in home.say("service", "show", "mine", env={"COLUMNS": "200"}).stdout
    assert home.ask("service", "edit", "mine", "--gpus", "0", code=0).json["notes"] == []


def test_a_service_named_twice_is_refused(home):
    for args, option in (
        (("mode", "create", "m", "--services", "chat,asr,chat"), "--services"),
        (("mode", "edit", "rag", "--services", "chat,chat"), "--services"),
        (("mode", "edit", "rag", "--add", "asr", "--add", "asr"), "--add"),
        (("mode", "edit", "rag", "--remove", "chat,chat"), "--remove"),
        (("simulate", "--services", "chat,chat"), "--services"),
        (("simulate", "--mode", "rag", "--add", "asr,asr"), "--add"),
    ):
        name = "asr" if "asr" in args else args[-1].partition(",")[0]
        refused = home.ask(*args, code=2).error
        assert refused["why"] == f"{option}: names {name} twice", args
    assert "m" not in home.modes()


def test_missing_arguments(home):
    for args in (
        ("service", "add"), ("service", "show"), ("service", "edit"), ("service", "remove"), ("service", "start"),
        ("mode", "create"), ("mode", "create", "x"), ("mode", "edit"), ("mode", "delete"), ("mode", "show"),
        ("switch",),
        ("settings", "get"), ("settings", "set"), ("preset", "show"), ("completion",), ("simulate",), ("service",),
        ("mode",), ("preset",), ("history",), ("settings",), ("nosuch",), ("service", "nosuch"),
    ):  # fmt: skip
        assert home.ask(*args, code=2).error["code"] == "usage", args
        done = home.say(*args, code=2)
        assert done.stdout == ""
        assert done.stderr, args


def test_a_circle_of_dependencies_is_refused(home):
    home.add("one", 9101)
    home.add("two", 9102, "--depends-on", "one")
    assert home.ask("service", "edit", "one", "--depends-on", "two", code=2).error["code"] == "dependency-cycle"
    assert home.services()["one"]["depends_on"] == []


def test_of_a_host_is_said_how_its_members_get_another(home):
    refused = home.ask("service", "remove", "llama-router", code=1).error
    assert (refused["code"], refused["why"]) == ("has-dependents", "chat lives in it")
    assert "gpumod service edit chat --host-service ANOTHER" in refused["hint"]


def test_removing_what_others_need(home):
    home.add("one", 9101)
    home.add("two", 9102, "--depends-on", "one")
    home.ask("mode", "create", "mine", "--services", "two", code=0)
    refused = home.ask("service", "remove", "one", code=1).error
    assert (refused["code"], refused["why"]) == ("has-dependents", "two names it in depends_on")
    assert "gpumod service edit two --unset depends_on" in refused["hint"]
    assert home.ask("service", "remove", "two", code=1).error["code"] == "in-modes"
    home.ask("service", "remove", "two", "--cascade", code=0)
    assert home.modes()["mine"] == []
    home.ask("service", "remove", "one", code=0)


def test_a_context_changes_the_vram_by_its_cost(home):
    home.ask("service", "edit", "glm-code", "--context-size", "16384", code=0)
    assert home.services()["glm-code"]["vram_mb"] == 16315  # 19100 less 16.384 x 170, rounded up
    home.ask("service", "edit", "glm-code", "--context-size", "32768", code=0)
    assert home.services()["glm-code"]["vram_mb"] == 19101
    home.ask("service", "edit", "glm-code", "--context-size", "1024", "--vram-mb", "5", code=0)
    assert home.services()["glm-code"]["vram_mb"] == 5


def test_a_context_beyond_any_card_is_refused_and_the_service_stays(home):
    home.ask("service", "edit", "glm-code", "--kv-cache-per-1k", "1000000", code=0)
    assert home.ask("service", "edit", "glm-code", "--context-size", "100000000", code=2).error["code"] == "bad-context"
    assert home.services()["glm-code"]["context_size"] == 32768


def test_what_the_user_edited_survives_loading_until_update(home):
    home.ask("service", "edit", "asr", "--port", "9103", "--name", "Ears", code=0)
    home.ask("mode", "edit", "code", "--remove", "embedding-code", code=0)
    loaded = home.ask("preset", "load", code=0).json
    assert loaded["kept"]["asr"] == ["name", "port"]
    assert (home.services()["asr"]["port"], home.modes()["code"]) == (9103, ["glm-code"])
    home.ask("preset", "load", "--update", code=0)
    assert home.services()["asr"]["port"] != 9103
    assert home.modes()["code"] == ["embedding-code", "glm-code"]


def test_unsetting(home):
    home.ask("service", "edit", "asr", "--set", "cwd=/tmp", code=0)
    assert "cwd" not in home.ask("service", "edit", "asr", "--unset", "cwd", code=0).json["service"]["unit_vars"]
    assert home.ask("service", "edit", "asr", "--unset", "cwd", code=4).error["code"] == "unknown-option"
    assert home.ask("service", "edit", "asr", "--unset", "id", code=4).error["code"] == "unknown-field"
    assert home.ask("service", "edit", "asr", "--unset", "port", code=2).error["code"] == "bad-options"
    assert home.ask("service", "edit", "asr", "--unset", "driver", code=2).error["code"] == "bad-input"


def test_modes(home):
    create = ("mode", "create", "mine", "--services")
    home.ask(*create, "chat,asr", "--asleep", "asr", "--start-order", "chat=1", code=0)
    assert home.ask(*create, "chat", code=2).error["code"] == "mode-exists"
    before = home.ask("mode", "show", "mine").json
    for args, exit_code, code in (
        (("--add", "nobody"), 4, "unknown-service"),
        (("--remove", "tts"), 2, "not-a-member"),
        (("--asleep", "tts"), 2, "not-a-member"),
        (("--sleep-on-idle", "chat", "--awake", "chat"), 2, "usage"),
        (("--start-order", "chat=x"), 2, "usage"),
        (("--start-order", "tts=1"), 2, "not-a-member"),
        (("--services", "chat,nobody"), 4, "unknown-service"),
    ):
        assert home.ask("mode", "edit", "mine", *args, code=exit_code).error["code"] == code, args
    assert home.ask("mode", "show", "mine").json == before
    home.ask("mode", "edit", "mine", "--remove", "asr", "--name", "Other", code=0)
    assert home.modes()["mine"] == ["chat"]
    home.ask("mode", "delete", "mine", code=0)
    assert "mine" not in home.modes()


def test_the_current_mode_cannot_be_deleted_but_edited(home):
    home.ask("switch", "blank", code=0)
    assert home.ask("mode", "delete", "blank", code=1).error["code"] == "mode-is-current"
    home.ask("mode", "create", "empty", "--services", "", code=0)
    home.ask("switch", "empty", code=0)
    home.ask("mode", "delete", "blank", code=0)
    # The mode before the current one is gone with its definition.
    assert home.ask("switch", "-", code=2).error["code"] == "no-previous-mode"


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("mode", "edit", "code", "--add", "tts", "--remove", "tts"), "bad-input", "tts is both added and removed"),
        (("settings", "set", "reserve_mb", "99999"), "bad-setting", "reserve_mb cannot be 99999"),
    ],
)
def test_what_contradicts_itself_or_the_card_is_refused(home, args, code, said):
    error = home.ask(*args, code=2).error
    assert error["code"] == code
    assert said in error["message"]
