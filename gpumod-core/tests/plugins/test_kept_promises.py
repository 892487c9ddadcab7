"""Drivers of third parties may be written in every odd way that keeps the promise, and are left as they are."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gpumod.api import (
    Allocation,
    Capabilities,
    Driver,
    Failed,
    HostsMembers,
    Http,
    Launch,
    OffersVariants,
    ProbeResult,
    ReadsItsLog,
    ReportsActivity,
    Service,
    Settings,
    SleepStrategy,
    SuitsItsProgram,
)
from gpumod.plugins.answers import POWERS
from gpumod.plugins.offers import DriverOffer, SleepStrategyOffer
from gpumod.plugins.registry import Offered
from gpumod.testing.web import NoAnswer, QuickClock
from gpumod.testing.world_drivers import WorldDriver

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICE = Service(id="chat", driver="acme", port=8000, vram_mb=100)
HTTP, CLOCK = NoAnswer("refused"), QuickClock()
READY = ProbeResult(state="ready")
BROKEN = "the driver 'acme' of acme-gpumod is broken: "


class Acme:
    """A driver that keeps its word."""

    name = "acme"

    def check(self, service: Service) -> None: ...
    def capabilities(self, service: Service) -> Capabilities:
        return Capabilities()

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        return Launch(argv=("true",))

    async def probe(self, service: Service, port: int, http: Http) -> ProbeResult:
        return READY


class Nap:
    """A sleep strategy that keeps its word."""

    def residue_mb(self, service: Service, vram_mb: int) -> int | None:
        return None

    ram_mb = residue_mb

    async def sleep(self, service: Service, port: int, http: Any, clock: Any) -> None: ...

    wake = sleep


def made(factory: Callable[[], Any]) -> Any:
    return Offered("driver", DriverOffer(name="acme", summary="", factory=factory), "acme-gpumod").make()


def nap_of(factory: Callable[[], Any]) -> Any:
    offer = SleepStrategyOffer(name="nap", summary="", drivers=("acme",), factory=factory)
    return Offered("sleep level", offer, "acme-gpumod").make()


def probed(driver: Any) -> Any:
    return asyncio.run(driver.probe(SERVICE, 8000, HTTP))


def with_methods(base: type = Acme, **methods: Any) -> Any:
    return made(type("Odd", (base,), methods))


def answering(answer: Any) -> Callable[..., Any]:
    return lambda *_: answer


def bound_by_hand(self: Any, *args: Any) -> Any:
    return Acme().probe(*args)


@functools.wraps(Acme.probe)
def decorated(*args: Any) -> Any:
    return Acme.probe(*args)


class Partial(Acme):
    def __init__(self) -> None:
        self.probe = functools.partial(Acme().probe)  # type: ignore[method-assign]
        self.capabilities = functools.partial(Capabilities, hosts_members=True)  # type: ignore[assignment]

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in ("probe", "capabilities"), "nobody writes on it but itself"
        super().__setattr__(name, value)


class Slotted:
    __slots__ = ("answer",)
    name = "acme"
    check = Acme.check
    launch = Acme.launch
    probe = Acme.probe

    def __init__(self) -> None:
        self.answer = Capabilities()

    def capabilities(self, service: Service) -> Any:
        return self.answer


@dataclass(frozen=True)
class Dataclass(Acme):
    name: str = "acme"


class Delegating:
    """Has the methods of another driver by delegation alone."""

    name = "acme"

    def __init__(self) -> None:
        self.inner = Acme()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param(type("Odd", (Acme,), {"probe": bound_by_hand}), id="a method that hands on another's coroutine"),
        pytest.param(type("Odd", (Acme,), {"probe": decorated}), id="a coroutine under an ordinary decorator"),
        pytest.param(Slotted, id="slots"),
        pytest.param(Dataclass, id="a frozen dataclass"),
        pytest.param(Delegating, id="delegation"),
        pytest.param(type("Odd", (), dict(vars(Acme), probe=staticmethod(Acme().probe))), id="static"),
    ],
)
def test_a_driver_may_be_written_as_its_author_likes(factory: Callable[[], Any]) -> None:
    driver = made(factory)
    assert isinstance(driver, Driver)
    assert driver.name == "acme"
    assert probed(driver) == READY
    assert driver.capabilities(SERVICE) == Capabilities()
    assert not isinstance(driver, ReportsActivity | HostsMembers | OffersVariants | SuitsItsProgram)


def test_partial_methods_of_the_object_are_called_and_looked_at() -> None:
    driver = made(Partial)
    assert probed(driver) == READY
    with pytest.raises(Failed, match="capabilities: TypeError"):
        driver.capabilities(SERVICE)


def test_a_module_or_a_namespace_is_a_driver_too_and_what_is_awaited_may_be_a_task() -> None:
    def probe(*args: Any) -> Any:
        return asyncio.ensure_future(Acme().probe(*args))

    methods = {name: getattr(Acme(), name) for name in ("check", "capabilities", "launch")}
    driver = made(lambda: SimpleNamespace(name="acme", probe=probe, **methods))

    async def asked() -> Any:
        return await driver.probe(SERVICE, 8000, HTTP)

    assert asyncio.run(asked()) == READY
    assert driver.capabilities(SERVICE) == Capabilities()


def test_a_power_of_its_parent_can_be_given_up() -> None:
    driver = made(type("Odd", (WorldDriver,), {"activity": None}))
    assert isinstance(driver, ReadsItsLog)
    assert not isinstance(driver, ReportsActivity)


def test_what_is_awaited_says_so() -> None:
    driver = with_methods(probe=bound_by_hand, activity=bound_by_hand)
    assert [inspect.iscoroutinefunction(method) for method in (driver.probe, driver.activity, driver.launch)] == [
        True, True, False,
    ]  # fmt: skip


def test_a_sleep_strategy_may_have_helpers_of_any_name() -> None:
    class Own(Nap):
        slept = False

        async def probe(self, port: int) -> bool:
            return True

        def capabilities(self) -> str:
            return "all"

        async def sleep(self, service: Service, port: int, http: Any, clock: Any) -> None:
            self.slept = await self.probe(port) and self.capabilities() == "all"
            assert self.slept

    strategy = nap_of(Own)
    assert isinstance(strategy, SleepStrategy)
    asyncio.run(strategy.sleep(SERVICE, 8000, HTTP, CLOCK))


def test_a_driver_that_copies_itself_is_asked_as_the_copy() -> None:
    class Copies(Acme):
        hosts = False

        def capabilities(self, service: Service) -> Capabilities:
            if service.host is None:
                other = copy.copy(self)
                other.hosts = True
                return other.capabilities(service.model_copy(update={"host": "router"}))
            return Capabilities(hosts_members=self.hosts)

    assert made(Copies).capabilities(SERVICE).hosts_members


def test_one_object_may_be_offered_many_times() -> None:
    shared = Acme()
    before = dict(vars(shared))
    for _ in range(1500):
        driver = made(lambda: shared)
    assert driver.capabilities(SERVICE) == Capabilities()
    assert vars(shared) == before


def test_a_driver_made_of_another_plugins_keeps_its_own_name_clean() -> None:
    inner = made(type("Odd", (Acme,), {"capabilities": answering(None)}))
    outer = Offered("driver", DriverOffer(name="outer", summary="", factory=lambda: inner), "outer-gpumod").make()
    with pytest.raises(Failed, match="the driver 'acme' of acme-gpumod is broken") as caught:
        outer.capabilities(SERVICE)
    assert caught.value.info.details["distribution"] == "acme-gpumod"


def test_any_sequence_is_taken_where_several_are_answered() -> None:
    driver = with_methods(variants=answering([]), questions=answering([["acme", "--version"]]), suited=answering(None))
    assert list(driver.variants(SERVICE)) == []
    assert driver.questions(SERVICE, Launch(argv=("true",)), Settings()) == [["acme", "--version"]]


def test_a_driver_that_takes_no_attributes_is_kept_too() -> None:
    driver = with_methods(Slotted, __slots__=(), launch=answering({}))
    with pytest.raises(Failed, match="launch answered dict, not Launch"):
        driver.launch(SERVICE, Allocation(), Settings())


def test_calls_at_the_same_time_are_each_their_own() -> None:
    both = threading.Barrier(2, timeout=10)

    def capabilities(self: object, service: Service) -> Any:
        both.wait()
        return Capabilities() if service.id == "chat" else {}

    driver, found = with_methods(capabilities=capabilities), {}

    def ask(service: Service) -> None:
        try:
            found[service.id] = driver.capabilities(service)
        except Failed as error:
            found[service.id] = error.code

    threads = [threading.Thread(target=ask, args=[SERVICE.model_copy(update={"id": name})]) for name in ("chat", "no")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"chat": Capabilities(), "no": "plugin-broken"}


def test_every_power_that_is_told_of_is_kept() -> None:
    page = Path(__file__).parents[3] / "docs/plugins/driver-powers.md"
    rows = (line.split("`")[1] for line in page.read_text().splitlines() if line.startswith("| `"))
    assert sorted(rows) == [power.__name__ for power in POWERS]
