"""A driver's launches: pure, on the port and the address that were asked for, and no word taken for another."""

from __future__ import annotations

from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.base import is_id
from gpumod.domain.service import Service
from gpumod.plugins.kit import DENIED_ENV, ENV_NAME
from gpumod.ports import Capabilities, Driver, Launch
from gpumod.testing.suites.cases import DriverCase, asked, place
from gpumod.testing.suites.odd import CANARY, EVERYWHERE, FLAG_LIKE, ONE_WORD, SECRET

MODEL_FIELDS = ("model_id", "model_path")
NEEDED = ("check", "capabilities", "launch", "probe")
"""What every driver can do."""


def refusal(case: DriverCase, service: Service) -> str:
    """Why the driver's check refuses the service, or nothing. Whatever it raises but ValueError is a failure."""
    try:
        case.driver.check(service)
    except ValueError as error:
        return str(error) or "it does not say why"
    return ""


def accepted(case: DriverCase, service: Service) -> bool:
    return not refusal(case, service)


def launched(case: DriverCase, service: Service) -> Launch:
    return case.driver.launch(service, place(service), case.settings)


class Launching:
    """Part of :class:`gpumod.testing.DriverSuite`."""

    def test_it_is_a_driver(self, case: DriverCase) -> None:
        lacking = sorted(name for name in NEEDED if not callable(getattr(case.driver, name, None)))
        assert not lacking, f"it lacks {', '.join(lacking)}"
        assert isinstance(case.driver, Driver), "it lacks a name"
        assert is_id(case.driver.name)
        assert case.services, "give at least one service that it accepts"
        assert {service.driver for service in case.services} == {case.driver.name}

    def test_its_examples_are_accepted(self, case: DriverCase) -> None:
        for service in case.services:
            case.driver.check(service)

    def test_capabilities_are_pure_and_ids(self, case: DriverCase) -> None:
        for service in case.services:
            found = case.driver.capabilities(service)
            assert isinstance(found, Capabilities)
            assert case.driver.capabilities(service) == found
            assert all(map(is_id, found.sleep_levels))
            assert not {"stop", "none"} & set(found.sleep_levels), "every service can be stopped: not a level of yours"

    def test_every_level_has_a_strategy(self, case: DriverCase) -> None:
        for service in case.services:
            levels = case.driver.capabilities(service).sleep_levels
            lacking = sorted(set(levels) - set(case.strategies))
            assert not lacking, f"capabilities declare sleep levels without a strategy: {lacking}"
            assert not service.supports_sleep or service.sleep_mode in levels, "it could not sleep as it says"

    def test_a_level_that_is_not_declared_is_refused(self, case: DriverCase) -> None:
        for service in case.services:
            unknown = service.model_copy(update={"sleep_mode": "no-such-level"})
            assert not accepted(case, unknown) or (
                "no-such-level" not in case.driver.capabilities(unknown).sleep_levels
            ), "it says that it can sleep at any level"

    def test_launch_is_pure(self, case: DriverCase) -> None:
        for service in case.started:
            before = service.model_dump_json()
            first = launched(case, service)
            assert isinstance(first, Launch)
            assert launched(case, service) == first, "the same service gives the same launch"
            assert service.model_dump_json() == before

    def test_launch_and_service_survive_json(self, case: DriverCase) -> None:
        for service in case.started:
            again = Service.model_validate_json(service.model_dump_json())
            first = launched(case, service)
            assert launched(case, again) == first, "options mean the same after they were stored"
            assert Launch.model_validate_json(first.model_dump_json()) == first

    def test_launch_can_be_started(self, case: DriverCase) -> None:
        for service in case.started:
            launch = launched(case, service)
            assert launch.argv and launch.argv[0], "a program comes first"  # noqa: PT018 - one thing
            words = (*launch.argv, *launch.env, *launch.env.values())
            assert all(isinstance(word, str) and "\0" not in word for word in words)
            assert all(ENV_NAME.fullmatch(name) for name in launch.env)
            assert launch.stop_timeout_s > 0
            for file in launch.files:
                path = PurePosixPath(file.name)
                assert file.name and not path.is_absolute() and ".." not in path.parts  # noqa: PT018 - one thing
                assert file.mode & 0o077 == 0, "files may hold what others must not read"

    @asked
    @given(port=st.integers(1, 65_535))
    def test_launch_listens_on_the_port(self, case: DriverCase, port: int) -> None:
        for service in case.started:
            if service.port is None:
                continue
            moved = service.model_copy(update={"port": port})
            launch = launched(case, moved)
            assert launch.ports == (port,), f"the launch tells the ports {launch.ports}, the service has {port}"
            texts = (*launch.argv, *launch.env.values(), *(file.content for file in launch.files))
            # where the options place it, what keeps the process does: ports of a container are mapped
            placed = "{port}" in moved.model_dump_json(include={"unit_vars"})
            assert placed or any(str(port) in text for text in texts), "the program is not told its port"

    def test_launch_stays_on_this_machine(self, case: DriverCase) -> None:
        for service in case.started:
            launch = launched(case, service)
            for text in (*launch.argv, *launch.env.values()):
                value = text.rpartition("=")[2]
                values = {text, value, value.rpartition(":")[0] or value}
                assert not values & set(EVERYWHERE), f"{text!r} opens it to the network, which nobody asked for"

    def test_launch_leaves_alone_what_gpumod_sets(self, case: DriverCase) -> None:
        for service in case.started:
            taken = sorted(set(launched(case, service).env) & DENIED_ENV)
            assert not taken, f"gpumod or the system sets these: {taken}"

    def test_a_text_stays_one_word(self, case: DriverCase) -> None:
        for service in case.started:
            for name in MODEL_FIELDS:
                odd = service.model_copy(update={name: f"/{ONE_WORD}"})
                if not accepted(case, odd):
                    continue
                launch = launched(case, odd)
                for text in (*launch.argv, *launch.env.values()):
                    assert CANARY not in text or ONE_WORD in text, f"{name} was changed or split: {text!r}"

    def test_a_model_is_not_taken_for_a_flag(self, case: DriverCase) -> None:
        for service in case.started:
            for name in MODEL_FIELDS:
                for flag in FLAG_LIKE:
                    odd = service.model_copy(update={name: flag})
                    assert not accepted(case, odd) or flag not in launched(case, odd).argv, f"{name} {flag}"

    def test_a_secret_stays_in_the_environment(self, case: DriverCase) -> None:
        for service in case.started:
            for names in ({"ACME_TOKEN": SECRET}, {"ACME_TOKEN": SECRET, "LD_PRELOAD": "x"}):
                options = {**service.unit_vars, "env": names}
                odd = service.model_copy(update={"unit_vars": options})
                assert SECRET not in refusal(case, odd), "a message repeats a secret"
                if not accepted(case, odd):
                    continue
                launch = launched(case, odd)
                assert "LD_PRELOAD" not in launch.env, "it would run whatever that names"
                texts = (*launch.argv, *(file.content for file in launch.files))
                assert not any(SECRET in text for text in texts), "everybody can read a command line"
