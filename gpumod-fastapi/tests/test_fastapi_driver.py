"""The driver of one's own HTTP services: its command, probe and sleep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.adapters.http import LoopbackHttp
from gpumod.adapters.launches import Resolved
from gpumod.adapters.systemd.rendering import Rendering
from gpumod.api import (
    PLUGIN_API,
    Allocation,
    Driver,
    Failed,
    Service,
    Settings,
    SleepStrategy,
)
from gpumod.domain.run import Handle
from gpumod.testing.web import Answer, Call, FakeWeb, NoAnswer, QuickClock
from gpumod_fastapi import plugin
from gpumod_fastapi.driver import FastApiDriver
from gpumod_fastapi.sleep import HttpSleep

DRIVER, HTTP = FastApiDriver(), LoopbackHttp()
COMMAND = "uvicorn app:app --host {host} --port {port}"
SLEEPS = {"command": COMMAND, "sleep_path": "/sleep", "wake_path": "/wake"}


def a_service(**fields: Any) -> Service:
    known: dict[str, Any] = {"id": "asr", "driver": "fastapi", "port": 7821, "unit_vars": {"command": COMMAND}}
    return Service.model_validate(known | fields)


def test_the_command_is_filled_in() -> None:
    options = {"command": COMMAND, "cwd": "/srv/asr", "env": {"A": "b c", "PORT": "9"}, "stop_timeout_s": 5}
    launch = DRIVER.launch(a_service(unit_vars=options), Allocation(), Settings(hf_home="/hf"))
    assert launch.argv == ("uvicorn", "app:app", "--host", "127.0.0.1", "--port", "7821")
    assert launch.env == {"HF_HOME": "/hf", "A": "b c", "PORT": "7821"}
    assert (launch.cwd, launch.ports, launch.stop_timeout_s) == (Path("/srv/asr"), (7821,), 5)


def test_a_text_is_split_as_a_shell_would_and_nothing_is_expanded() -> None:
    options = {"command": """python3 'my app.py' --x="a b" '$HOME;rm *' {"k":1} {service_dir}"""}
    launch = DRIVER.launch(a_service(unit_vars=options), Allocation(), Settings())
    assert launch.argv == ("python3", "my app.py", "--x=a b", "$HOME;rm *", "{k:1}", "{service_dir}")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"unit_vars": {}}, "command"),
        ({"unit_vars": {"command": ""}}, "command"),
        ({"unit_vars": {"command": "'open"}}, "command"),
        ({"unit_vars": {"command": [""]}}, "no program"),
        ({"unit_vars": {"command": ["{model_path}"]}}, "no model_path"),
        ({"unit_vars": {"command": COMMAND, "sleep_pth": "/s"}}, "did you mean sleep_path"),
        ({"unit_vars": {"command": COMMAND, "sleep_path": "sleep"}}, "sleep_path"),
        ({"unit_vars": {"command": COMMAND, "sleep_path": "/a b"}}, "sleep_path"),
        ({"unit_vars": {"command": COMMAND, "cwd": "srv"}}, "cwd"),
        ({"unit_vars": {"command": COMMAND, "env": {"PATH": "/tmp"}}}, "PATH"),
        ({"unit_vars": {"command": COMMAND, "env": {"A": True}}}, "quotes"),
        ({"unit_vars": {"command": COMMAND, "health_status": 42}}, "health_status"),
        ({"unit_vars": {"app": "a:b", "command": COMMAND}}, "either a command or an app"),
        ({"unit_vars": {"app": "a b:c"}}, "app"),
        ({"unit_vars": {"app": "--factory:x"}}, "app"),
        ({"unit_vars": {"command": COMMAND, "app_args": "--reload"}}, "app_args"),
        ({"unit_vars": {"command": COMMAND, "sleep_method": "post"}}, "sleep_method"),
        ({"unit_vars": {"command": COMMAND, "asleep_field": "a..b"}}, "asleep_field"),
        ({"sleep_mode": "http", "unit_vars": {**SLEEPS, "wake_method": "GET", "wake_body": {}}}, "GET has no body"),
        ({"sleep_mode": "http", "unit_vars": {**SLEEPS, "asleep_at_most": 5}}, "asleep_field"),
        ({"sleep_mode": "http", "unit_vars": {"command": COMMAND, "sleep_path": "/s"}}, "loads_by_use"),
        ({"port": None}, "port"),
        ({"host": "other", "port": None}, "host"),
        ({"sleep_mode": "http"}, "sleep_path and wake_path"),
        ({"sleep_mode": "l1"}, "'http'"),
    ],
)
def test_what_would_not_work_is_refused_with_its_reason(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="'asr'") as caught:
        DRIVER.check(a_service(**fields))
    assert says in str(caught.value)


words = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")) | st.sampled_from("{} \"'\\$;"), max_size=20)


@given(model=words.filter(bool), command=st.lists(words, min_size=1, max_size=5).filter(lambda c: bool(c[0])))
def test_a_value_stays_in_its_argument_whatever_it_holds(model: str, command: list[str]) -> None:
    service = a_service(model_id=model, model_path=model, unit_vars={"command": [*command, "--m={model_id}", "{port}"]})
    argv = DRIVER.launch(service, Allocation(), Settings()).argv
    assert len(argv) == len(command) + 2
    assert argv[-2:] == (f"--m={model}", "7821")
    for got, given_word in zip(argv, command, strict=False):
        assert got == given_word or any(name in given_word for name in ("{port}", "{host}", "{model_"))


class App:
    """A service of somebody's own, with faults by `METHOD path`."""

    def __init__(self, **faults: Any) -> None:
        self.asleep = False
        self.faults: dict[str, Answer | None] = faults.pop("answers", {})
        self.deaf = faults.pop("deaf", False)
        self.in_flight: int = faults.pop("in_flight", 0) + 1

    def __call__(self, call: Call) -> Answer | None:
        if str(call) in self.faults:
            return self.faults[str(call)]
        if str(call) in ("POST /sleep", "POST /wake"):
            self.asleep = self.asleep if self.deaf else call.path == "/sleep"
            return 202, b""
        if str(call) == "GET /busy":
            self.in_flight = max(0, self.in_flight - 1)
            return 200, {"in_flight": self.in_flight}
        return 200, {"status": "ok", "sleeping": self.asleep}


def a_sleeper(**options: Any) -> Service:
    return a_service(sleep_mode="http", unit_vars={**SLEEPS, **options})


@pytest.mark.parametrize(
    ("answer", "options", "state"),
    [
        ((200, {"sleeping": False}), {}, "ready"),
        ((200, b""), {}, "ready"),
        ((200, {"sleeping": True}), {}, "sleeping"),
        ((503, {"status": "sleeping"}), {}, "sleeping"),
        ((204, b""), {"health_status": 204}, "ready"),
        ((204, b""), {}, "unhealthy"),
        ((503, {"detail": "Loading model"}), {}, "starting"),
        ((500, "x"), {}, "unhealthy"),
    ],
)
async def test_the_probe_reads_the_health_path(answer: Answer, options: dict[str, Any], state: str) -> None:
    async with FakeWeb(lambda _: answer) as web:
        service = a_sleeper(**options).model_copy(update={"health_endpoint": "/live"})
        assert (await DRIVER.probe(service, web.port, HTTP)).state == state
        assert web.said() == ["GET /live"]


@pytest.mark.parametrize(
    ("kind", "state", "code"),
    [
        ("refused", "starting", "sleep-failed"),
        ("timeout", "unhealthy", "sleep-timeout"),
        ("protocol", "unhealthy", "sleep-failed"),
    ],
)
async def test_a_port_that_does_not_answer_is_no_traceback(kind: Any, state: str, code: str) -> None:
    http = NoAnswer(kind)
    assert (await DRIVER.probe(a_service(), 1, http)).state == state
    with pytest.raises(Failed) as caught:
        await HttpSleep().sleep(a_sleeper(), 1, http, QuickClock())
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("options", "asks"),
    [
        ({"command": COMMAND}, False),
        ({"command": "serve --listen 127.0.0.1:7821"}, False),
        ({"command": ["sh", "-c", "exec serve $PORT"]}, False),
        ({"command": "serve", "env": {"LISTEN": "7821"}}, False),
        ({"command": "serve --port 80"}, True),
        ({"command": "serve", "env": {"HOST": "127.0.0.1"}}, True),
    ],
)
async def test_a_command_that_never_heard_of_its_port_is_suspected(options: dict[str, Any], asks: bool) -> None:
    detail = (await DRIVER.probe(a_service(unit_vars=options), 7821, NoAnswer("refused"))).detail
    assert detail.startswith("nothing listens on port 7821")
    assert ("does the program read the variable PORT?" in detail) is asks


async def test_what_was_adopted_is_not_asked_for_its_command() -> None:
    service = a_service(unit_vars={"command": "serve"}, adopted={"pid": 4711, "identity": "x"})
    assert (await DRIVER.probe(service, 7821, NoAnswer("refused"))).detail == "nothing listens on port 7821 yet"


async def test_it_sleeps_when_its_requests_are_done() -> None:
    app = App(in_flight=3)
    async with FakeWeb(app) as web:
        for _ in range(2):  # what sleeps already is not asked
            await HttpSleep().sleep(a_sleeper(activity_path="/busy"), web.port, HTTP, QuickClock())
    assert app.asleep
    asked = [call for call in web.said() if call != "GET /health"]
    assert asked == ["GET /busy"] * 4 + ["POST /sleep"]


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        ((200, {"in_flight": 7}), "busy", "7 requests were still in flight after 0.2 s"),
        ((200, {"in_flight": 1}), "busy", "1 request was"),
        ((200, {"in_flight": True}), "activity-not-told", "/busy answered 200"),
        ((200, {"in_flight": -1}), "activity-not-told", "/busy"),
        ((404, b"none"), "activity-not-told", "404: none"),
    ],
)
async def test_a_busy_service_is_not_sent_to_sleep(answer: Answer, code: str, says: str) -> None:
    async with FakeWeb(App(answers={"GET /busy": answer})) as web:
        with pytest.raises(Failed) as caught:
            await HttpSleep().sleep(a_sleeper(activity_path="/busy", sleep_timeout_s=0.2), web.port, HTTP, QuickClock())
        assert "POST /sleep" not in web.said()
    assert caught.value.code == code
    assert says in caught.value.info.why


async def test_it_sleeps_and_wakes_once() -> None:
    app = App()
    async with FakeWeb(app) as web:
        strategy, clock = HttpSleep(), QuickClock()
        for _ in range(2):
            await strategy.sleep(a_sleeper(), web.port, HTTP, clock)
        assert app.asleep
        for _ in range(2):
            await strategy.wake(a_sleeper(), web.port, HTTP, clock)
        assert not app.asleep
        assert [call for call in web.said() if "POST" in call] == ["POST /sleep", "POST /wake"]


@pytest.mark.parametrize(
    ("verb", "app", "code", "says"),
    [
        ("sleep", App(answers={"POST /sleep": (500, "no host memory")}), "sleep-failed", "no host memory"),
        ("sleep", App(answers={"POST /sleep": None}), "sleep-timeout", "0.2 s"),
        ("sleep", App(deaf=True), "sleep-failed", "otherwise"),
        ("sleep", App(answers={"GET /health": (200, b"fine")}), "sleep-not-told", "/health"),
        ("wake", App(answers={"POST /wake": (507, "CUDA out of memory")}), "wake-failed", "CUDA out of memory"),
        ("wake", App(answers={"POST /wake": None}), "wake-timeout", "0.2 s"),
    ],
)
async def test_every_failure_has_its_name(verb: str, app: App, code: str, says: str) -> None:
    app.asleep = verb == "wake"
    service = a_sleeper(sleep_timeout_s=0.2, wake_timeout_s=0.2)
    act = HttpSleep().sleep if verb == "sleep" else HttpSleep().wake
    async with FakeWeb(app) as web:
        with pytest.raises(Failed) as caught:
            await act(service, web.port, HTTP, QuickClock())
        # One that does not tell is not even asked.
        assert code != "sleep-not-told" or "POST /sleep" not in web.said()
    assert caught.value.code == code
    assert says in caught.value.info.why


async def test_a_service_without_paths_cannot_sleep() -> None:
    with pytest.raises(Failed) as caught:
        await HttpSleep().sleep(a_service(), 1, HTTP, QuickClock())
    assert caught.value.code == "sleep-not-enabled"


def test_every_offer_works() -> None:
    assert {offer.name: isinstance(offer.factory(), Driver) for offer in plugin.gpumod_drivers()} == {
        "fastapi": True, "ollama": True,
    }  # fmt: skip
    strategy, unload = plugin.gpumod_sleep_strategies()
    assert (strategy.name, strategy.drivers, strategy.api) == ("http", ("fastapi",), PLUGIN_API)
    assert (unload.name, unload.drivers) == ("unload", ("ollama",))
    made = strategy.factory()
    assert isinstance(made, SleepStrategy)
    assert isinstance(unload.factory(), SleepStrategy)
    assert (made.residue_mb(a_service(), 9), made.ram_mb(a_service(), 9)) == (None, None)
    assert DRIVER.capabilities(a_sleeper()).sleep_levels == ("http",)
    assert DRIVER.capabilities(a_service()).sleep_levels == ()
    assert not DRIVER.capabilities(a_service()).unloads_itself
    assert DRIVER.capabilities(a_service(unit_vars={"command": ["app"], "unloads_itself": True})).unloads_itself


def test_the_unit_holds_hostile_values_as_they_are(tmp_path: Path) -> None:
    options = {"command": ["app", '"b" $HOME %n ; c'], "cwd": "/srv/50% off"}
    launch = DRIVER.launch(a_service(unit_vars=options), Allocation(), Settings())
    (offer,) = plugin.gpumod_templates()
    handle = Handle(service="s", supervisor="systemd-user", nonce="", launched=a_service(), started_at=0)
    found = Resolved("/opt/app", launch.argv, launch.env, {}, launch.cwd or tmp_path)
    unit = Rendering(tmp_path, "0" * 12, Settings(), "user", [offer.folder]).unit(handle, launch, found)
    assert unit.template == "fastapi.service.j2"
    text = unit.text
    assert 'ExecStart="/opt/app" "\\"b\\" $$HOME %%n ; c"\n' in text
    assert "WorkingDirectory=/srv/50%% off\n" in text
    assert 'Environment="PORT=7821"\n' in text


@pytest.mark.parametrize(
    "line",
    [
        "OSError: [Errno 98] Address already in use",
        "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use",
        "12:00 [E] [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use",
    ],
)
def test_a_port_that_is_taken_is_read_from_the_log(line: str) -> None:
    found = DRIVER.fatal_line(a_service(), ["INFO:     Application startup complete.", line])
    assert found is not None
    assert found.code == "port-taken"


def test_what_a_program_says_of_another_port_is_not_its_end() -> None:
    assert DRIVER.fatal_line(a_service(), ["INFO: retry: [Errno 98] on 8001"]) is None


def test_why_an_app_could_not_start_up_is_read_from_before_uvicorns_own_end() -> None:
    log = [
        "INFO:     Waiting for application startup.",
        "RuntimeError: no weights",
        "ERROR:    load failed: RuntimeError: no weights",
        "",
        "ERROR:    Application startup failed. Exiting.",
        "SystemExit: 3",
        "asyncio.exceptions.CancelledError",
    ]
    found = DRIVER.fatal_line(a_service(), log)
    assert found is not None
    assert (found.code, found.line) == ("crashed", "load failed: RuntimeError: no weights")
    memory = DRIVER.fatal_line(a_service(), ["torch.OutOfMemoryError: CUDA out of memory.", *log])
    assert memory is not None
    assert memory.code == "out-of-memory"
    assert DRIVER.fatal_line(a_service(), log[:2]) is None
