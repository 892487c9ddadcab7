"""What a driver can tell besides, found by its protocol: whether a service is in use, and what suits its program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gpumod.ports import (
    Activity,
    Answer,
    FormatNeed,
    HttpFailure,
    Launch,
    NeedsFormats,
    ReportsActivity,
    SuitsItsProgram,
)
from gpumod.testing.suites.cases import DriverCase, asked
from gpumod.testing.suites.launching import launched
from gpumod.testing.suites.odd import JSON, ODD_ANSWERS, TEXTS, SameAnswer
from gpumod.testing.web import NoAnswer

ODD_OUTPUTS = ("", "0.0.1", "version", "v999.999.999", "1.2", "dev", "Traceback (most recent call last):", "\0\0")


class Telling:
    """Part of :class:`gpumod.testing.DriverSuite`."""

    # --- ReportsActivity

    def test_nobody_there_is_no_use(self, case: DriverCase) -> None:
        if isinstance(case.driver, ReportsActivity):
            for service in case.services:
                for http in (NoAnswer("refused"), NoAnswer("timeout"), NoAnswer("protocol")):
                    with contextlib.suppress(HttpFailure):
                        found = asyncio.run(case.driver.activity(service, service.port or 1, http))
                        assert found is None, "who does not answer tells nothing of its use"

    def test_asking_for_use_changes_nothing(self, case: DriverCase) -> None:
        if isinstance(case.driver, ReportsActivity):
            for answer in ODD_ANSWERS:
                http = SameAnswer(answer)
                _read_use(case.driver, case, http)
                assert set(http.methods) <= {"GET", "HEAD"}, "asking is no use, and loads nothing"

    @asked
    @given(body=JSON)
    def test_any_answer_about_use_can_be_read(self, case: DriverCase, body: object) -> None:
        if isinstance(case.driver, ReportsActivity):
            _read_use(case.driver, case, SameAnswer((200, body)))

    # --- NeedsFormats

    def test_what_is_asked_of_a_card_is_told_alike(self, case: DriverCase) -> None:
        if isinstance(case.driver, NeedsFormats):
            for service in case.services:
                found = case.driver.formats(service)
                assert case.driver.formats(service) == found
                assert all(isinstance(need, FormatNeed) and need.option and need.instead for need in found)

    # --- SuitsItsProgram

    def test_questions_are_pure_command_lines(self, case: DriverCase) -> None:
        if isinstance(case.driver, SuitsItsProgram):
            for service in case.started:
                launch = launched(case, service)
                questions = case.driver.questions(service, launch, case.settings)
                assert case.driver.questions(service, launch, case.settings) == questions
                for several in (questions, *questions):
                    assert isinstance(several, Sequence) and not isinstance(several, str)  # noqa: PT018 - one thing
                assert all(question and all(isinstance(word, str) for word in question) for question in questions)

    @asked
    @given(output=st.sampled_from(ODD_OUTPUTS) | TEXTS, code=st.sampled_from([0, 1, -9, None]))
    def test_a_program_may_answer_anything(self, case: DriverCase, output: str, code: int | None) -> None:
        if isinstance(case.driver, SuitsItsProgram):
            for service in case.started:
                launch = launched(case, service)
                questions = case.driver.questions(service, launch, case.settings)
                answers = [Answer(exit_code=code, output=output)] * len(questions)
                try:
                    suited = case.driver.suited(service, launch, answers)
                except ValueError:
                    continue
                assert isinstance(suited, Launch)
                assert suited.ports == launch.ports
                assert case.driver.suited(service, launch, answers) == suited


def _read_use(driver: ReportsActivity, case: DriverCase, http: SameAnswer) -> None:
    for service in case.services:
        with contextlib.suppress(HttpFailure):
            found = asyncio.run(driver.activity(service, service.port or 1, http))
            assert found is None or isinstance(found, Activity)
