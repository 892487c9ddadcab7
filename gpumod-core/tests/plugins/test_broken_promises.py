"""Drivers and sleep strategies of third parties that break their word: each way to is named, with who offers them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gpumod.api import Capabilities, Failed, HttpFailure, ProbeResult
from gpumod.plugins.offers import DriverOffer, SleepStrategyOffer
from gpumod.plugins.registry import Offered
from gpumod.testing.web import NoAnswer, QuickClock
from gpumod.testing.world_drivers import Nap, WorldDriver, world_service

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SERVICE = world_service("chat", 100, 8000)
HTTP, CLOCK = NoAnswer("refused"), QuickClock()
READY = ProbeResult(state="ready")
BROKEN = "the driver 'acme' of acme-gpumod is broken: "


def made(factory: Callable[[], Any]) -> Any:
    return Offered("driver", DriverOffer(name="acme", summary="", factory=factory), "acme-gpumod").make()


def with_methods(**methods: Any) -> Any:
    """A driver that is well but for these."""
    return made(type("Odd", (WorldDriver,), methods))


def nap_with(**methods: Any) -> Any:
    factory = type("Odd", (Nap,), methods)
    offer = SleepStrategyOffer(name="nap", summary="", drivers=("acme",), factory=factory)
    return Offered("sleep level", offer, "acme-gpumod").make()


def answering(answer: Any) -> Callable[..., Any]:
    return lambda *_: answer


def raising(error: BaseException) -> Callable[..., Any]:
    def method(*_: object) -> None:
        raise error

    return method


def later(method: Callable[..., Any]) -> Callable[..., Any]:
    async def awaited(*args: object) -> Any:
        return method(*args)

    return awaited


async def generating(*_: object) -> Any:
    yield READY


async def cancelling_its_own(*_: object) -> None:
    inner = asyncio.ensure_future(asyncio.sleep(60))
    asyncio.get_running_loop().call_soon(inner.cancel)
    await inner


MEMBERS = {name: later(answering(None)) for name in ("members", "reload", "load", "unload")}
MEMBERS["members_file"] = answering(None)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"capabilities": answering({})}, "capabilities answered dict, not Capabilities"),
        ({"capabilities": later(answering(Capabilities()))}, "capabilities answered coroutine, not Capabilities"),
        ({"capabilities": raising(ValueError("x"))}, "capabilities: ValueError: x"),
        ({"capabilities": property(raising(OSError("gone")))}, "capabilities: OSError: gone"),
        ({"capabilities": None}, "capabilities: TypeError: 'NoneType' object is not callable"),
        ({"check": later(answering(None))}, "check answered coroutine, not None"),
        ({"launch": raising(StopIteration())}, "launch: StopIteration"),
        ({"launch": raising(asyncio.CancelledError())}, "launch: CancelledError"),
        ({"variants": answering(("smaller",))}, "variants answered tuple of str, not Sequence[Variant]"),
        ({"variants": answering({})}, "variants answered dict, not Sequence[Variant]"),
        ({"questions": answering(("acme -v",)), "suited": answering(0)}, "questions answered tuple of str, not"),
        ({"questions": answering("acme"), "suited": answering(0)}, "questions answered str, not Sequence[Sequence"),
        ({"fatal_line": raising(ValueError("x"))}, "fatal_line: ValueError: x"),
        ({"fatal_line": answering("out of memory")}, "fatal_line answered str, not FatalLine | None"),
        ({"member_name": answering(None)}, "member_name answered NoneType, not str"),
        ({**MEMBERS, "members_file": answering("[a]")}, "members_file answered str, not LaunchFile | None"),
        ({"read_command": answering(())}, "read_command answered tuple, not Told | None"),
        ({"suited": answering(None), "questions": answering(())}, "suited answered NoneType, not Launch"),
    ],
)
def test_what_breaks_at_once_is_named(methods: Mapping[str, Any], said: str) -> None:
    method = said.split(":", maxsplit=1)[0].split(maxsplit=1)[0]
    asked = getattr(with_methods(**methods), method)
    with pytest.raises(Failed) as caught:
        asked(SERVICE)
    assert caught.value.info.message.startswith(BROKEN + said)
    assert caught.value.code == "plugin-broken"


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"probe": answering(READY)}, "probe answered ProbeResult, which cannot be awaited"),
        ({"probe": generating}, "probe answered async_generator, which cannot be awaited"),
        ({"probe": later(answering(None))}, "probe answered NoneType, not ProbeResult"),
        ({"probe": later(raising(TypeError("x")))}, "probe: TypeError: x"),
        ({"probe": later(raising(SystemExit(3)))}, "probe: SystemExit: 3"),
        ({"probe": later(raising(asyncio.CancelledError()))}, "probe: CancelledError"),
        ({"probe": cancelling_its_own}, "probe: CancelledError"),
        ({"activity": later(raising(OSError("refused")))}, "activity: OSError: refused"),
        ({"activity": later(answering(3))}, "activity answered int, not Activity | None"),
        (
            {**MEMBERS, "members": later(answering({"a": True}))},
            "members answered dict, not Mapping[str, Mem",
        ),
        ({**MEMBERS, "load": later(raising(KeyError("x")))}, "load: KeyError: 'x'"),
    ],
)
def test_what_breaks_when_it_is_awaited_is_named(methods: Mapping[str, Any], said: str) -> None:
    method = said.split(":", maxsplit=1)[0].split(maxsplit=1)[0]
    asked = getattr(with_methods(**methods), method)
    with pytest.raises(Failed) as caught:
        asyncio.run(asked(SERVICE, 8000, HTTP))
    assert caught.value.info.message.startswith(BROKEN + said)


@pytest.mark.parametrize("method", ["check", "launch"])
def test_a_refusal_passes(method: str) -> None:
    with pytest.raises(ValueError, match="no model"):
        getattr(with_methods(**{method: raising(ValueError("no model"))}), method)(SERVICE)


@pytest.mark.parametrize("error", [HttpFailure("refused", "nobody"), Failed("sleep-failed", "no"), KeyboardInterrupt()])
def test_what_a_server_does_not_do_passes(error: BaseException) -> None:
    strategy = nap_with(sleep=later(raising(error)))
    with pytest.raises(type(error)) as caught:
        asyncio.run(strategy.sleep(SERVICE, 8000, HTTP, CLOCK))
    assert caught.value is error


def test_a_strategy_that_breaks_is_named_as_a_level() -> None:
    strategy = nap_with(sleep=later(raising(TypeError("x"))), residue_mb=answering(0.5))
    with pytest.raises(Failed, match="the sleep level 'nap' of acme-gpumod is broken: sleep: TypeError: x"):
        asyncio.run(strategy.sleep(SERVICE, 8000, HTTP, CLOCK))
    with pytest.raises(Failed, match="residue_mb answered float, not int"):
        strategy.residue_mb(SERVICE, 100)


async def hangs(*_: object) -> None:
    await asyncio.Event().wait()


def test_a_call_that_is_given_up_ends_as_such() -> None:
    async def asked() -> None:
        async with asyncio.timeout(0.01):
            await with_methods(probe=hangs).probe(SERVICE, 8000, HTTP)

    with pytest.raises(TimeoutError):
        asyncio.run(asked())


def test_a_task_that_is_cancelled_in_a_driver_is_cancelled() -> None:
    async def cancelled() -> bool:
        task = asyncio.ensure_future(with_methods(probe=hangs).probe(SERVICE, 8000, HTTP))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())


def test_a_property_that_raises_breaks_its_own_power_alone() -> None:
    driver = with_methods(activity=property(raising(OSError("gone"))))
    assert driver.capabilities(SERVICE) == Capabilities(sleep_levels=("nap",))
    with pytest.raises(Failed, match="activity: OSError: gone"):
        asyncio.run(driver.activity(SERVICE, 8000, HTTP))


@pytest.mark.parametrize("thing", [None, 5, object()])
def test_a_factory_that_makes_something_else_is_named(thing: object) -> None:
    with pytest.raises(Failed, match="the driver 'acme' of acme-gpumod is broken: capabilities: AttributeError"):
        made(lambda: thing).capabilities(SERVICE)
