"""A driver's probe: it looks and changes nothing, and no server can make it raise."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import given

from gpumod.adapters.http import LoopbackHttp
from gpumod.ports import Http, ProbeResult
from gpumod.testing.suites.cases import DriverCase, asked
from gpumod.testing.suites.odd import JSON, ODD_ANSWERS, SameAnswer
from gpumod.testing.web import Answer, Call, FakeWeb, NoAnswer

LOOKING = {"GET", "HEAD"}


class Probing:
    """Part of :class:`gpumod.testing.DriverSuite`."""

    def test_probe_of_nobody_is_not_ready(self, case: DriverCase) -> None:
        for service in case.services:
            for http in (NoAnswer("refused"), NoAnswer("timeout"), NoAnswer("protocol")):
                found = asyncio.run(case.driver.probe(service, service.port or 1, http))
                assert isinstance(found, ProbeResult)
                assert found.state not in ("ready", "sleeping"), f"{http.kind}, and yet {found.state}"

    def test_probe_takes_any_answer_and_only_looks(self, case: DriverCase) -> None:
        calls = asyncio.run(self._ask_odd_server(case))
        assert {call.method for call in calls} <= LOOKING, "a probe may change nothing"
        for service in case.services:
            for answer in ODD_ANSWERS:
                found = asyncio.run(case.driver.probe(service, service.port or 1, SameAnswer(answer)))
                assert isinstance(found, ProbeResult)

    @staticmethod
    async def _ask_odd_server(case: DriverCase) -> list[Call]:
        """A real server on loopback that says one odd thing after another, each to one of the services."""
        http: Http = LoopbackHttp()
        answer: Answer = ODD_ANSWERS[0]
        async with FakeWeb(lambda _: answer) as web:
            for answer, service in zip(ODD_ANSWERS, itertools.cycle(case.services), strict=False):
                found = await case.driver.probe(service, web.port, http)
                assert isinstance(found, ProbeResult), answer
            return web.calls

    @asked
    @given(body=JSON)
    def test_probe_takes_any_json(self, case: DriverCase, body: object) -> None:
        for service in case.services:
            for status in (200, 503):
                found = asyncio.run(case.driver.probe(service, service.port or 1, SameAnswer((status, body))))
                assert isinstance(found, ProbeResult)
