"""What every sleep strategy promises, as tests: subclass `SleepStrategySuite` and give it a `case`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.adapters.http import LoopbackHttp
from gpumod.domain.errors import GpumodError
from gpumod.ports import Http, SleepStrategy
from gpumod.testing.suites.cases import SleepCase, asked
from gpumod.testing.suites.odd import JSON, ODD_ANSWERS, SameAnswer
from gpumod.testing.web import FakeWeb, NoAnswer, QuickClock

Verb = Literal["sleep", "wake"]
VERBS: tuple[Verb, Verb] = ("sleep", "wake")
PORT = 1
MOST_MB = 1_000_000


def act(case: SleepCase, verb: Verb, http: Http) -> None:
    strategy, service = case.strategy, case.service
    asyncio.run(getattr(strategy, verb)(service, service.port or PORT, http, QuickClock()))


class SleepStrategySuite:
    """Needs one fixture, `case`, that gives a :class:`gpumod.testing.SleepCase`."""

    def test_it_is_a_strategy(self, case: SleepCase) -> None:
        assert isinstance(case.strategy, SleepStrategy)
        assert case.service.supports_sleep, "give a service whose sleep_mode is the level"

    @asked
    @given(sizes=st.tuples(st.integers(0, MOST_MB), st.integers(0, MOST_MB)).map(sorted))
    def test_predictions_are_pure_and_grow_with_the_service(self, case: SleepCase, sizes: list[int]) -> None:
        small_mb, large_mb = sizes
        for predict in (case.strategy.residue_mb, case.strategy.ram_mb):
            few, many = predict(case.service, small_mb), predict(case.service, large_mb)
            assert predict(case.service, small_mb) == few
            assert (few is None) == (many is None)
            assert few is None or isinstance(few, int), "whole MiB"
            assert few is None or many is None or 0 <= few <= many

    @asked
    @given(vram_mb=st.integers(0, MOST_MB))
    def test_asleep_it_keeps_no_more_than_it_had(self, case: SleepCase, vram_mb: int) -> None:
        residue_mb = case.strategy.residue_mb(case.service, vram_mb)
        assert residue_mb is None or 0 <= residue_mb <= vram_mb

    @pytest.mark.parametrize("verb", VERBS)
    @pytest.mark.parametrize("kind", ["refused", "timeout", "protocol"])
    def test_no_answer_is_an_error(
        self, case: SleepCase, verb: Verb, kind: Literal["refused", "timeout", "protocol"]
    ) -> None:
        with pytest.raises(GpumodError) as caught:
            act(case, verb, NoAnswer(kind))
        assert caught.value.info.why or caught.value.info.hint, "say what the server did, or what to try"

    def test_who_agrees_and_does_nothing_is_not_believed(self, case: SleepCase) -> None:
        for body in (b"", {}, {"status": "ok"}):
            with pytest.raises(GpumodError):
                act(case, "sleep", SameAnswer((200, body)))

    @pytest.mark.parametrize("verb", VERBS)
    def test_odd_answers_are_errors_or_taken(self, case: SleepCase, verb: Verb) -> None:
        for answer in ODD_ANSWERS:
            with contextlib.suppress(GpumodError):
                act(case, verb, SameAnswer(answer))

    @asked
    @given(body=JSON, verb=st.sampled_from(VERBS))
    def test_any_json_is_an_error_or_taken(self, case: SleepCase, body: object, verb: Verb) -> None:
        with contextlib.suppress(GpumodError):
            act(case, verb, SameAnswer((200, body)))

    def test_naps(self, case: SleepCase) -> None:
        """Asleep and awake again, each asked for twice, on a server that answers as the runtime does."""
        if case.server is not None:
            asyncio.run(self._nap(case))

    @staticmethod
    async def _nap(case: SleepCase) -> None:
        assert case.server is not None
        http, clock = LoopbackHttp(), QuickClock()
        async with FakeWeb(case.server()) as web:
            for verb, state in (("wake", "ready"), ("sleep", "sleeping"), ("wake", "ready")):
                for _ in range(2):
                    await getattr(case.strategy, verb)(case.service, web.port, http, clock)
                if case.driver is not None:
                    assert (await case.driver.probe(case.service, web.port, http)).state == state
