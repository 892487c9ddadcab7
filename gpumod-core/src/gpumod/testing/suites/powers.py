"""What a driver can do besides, each power found by its protocol: logs, variants, members, command lines of others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.errors import GpumodError
from gpumod.domain.plan import Variant
from gpumod.domain.service import Service
from gpumod.ports import (
    Allocation,
    ChecksVariables,
    FatalLine,
    HostsMembers,
    HttpFailure,
    LaunchFile,
    MemberReading,
    NamesMembers,
    OffersVariants,
    ReadsItsLog,
)
from gpumod.ports.commands import CommandLine, ReadsCommands, Told
from gpumod.testing.suites.cases import DriverCase, asked
from gpumod.testing.suites.launching import launched
from gpumod.testing.suites.odd import ODD_ANSWERS, TEXTS, SameAnswer
from gpumod.testing.web import NoAnswer, QuickClock

HARMLESS = ("", "INFO: started", "warning: slow", "GET /health 200", "out of the box", "error rate 0.0")
VALUE = "s3cr3t-value"
TOLD_BY_OTHERS = ("API_KEY", "LLAMA_API_KEY", "LLAMA_ARG_HOST", "OLLAMA_HOST", "PORT", "VLLM_API_KEY")
"""Variables that some runtimes read."""
STRANGE = (("sleep", "600"), ("bash", "-c", "true"), ("",), ("python", "-m"), ("env",), ("/", "--"))


class Powers:
    """Part of :class:`gpumod.testing.DriverSuite`. A driver without a power passes its tests: the core asks the
    protocol too, and never calls what is not there."""

    # --- ReadsItsLog

    def test_ordinary_lines_end_nothing(self, case: DriverCase) -> None:
        if isinstance(case.driver, ReadsItsLog):
            for service in case.services:
                assert case.driver.fatal_line(service, []) is None
                assert case.driver.fatal_line(service, list(HARMLESS)) is None

    @asked
    @given(lines=st.lists(TEXTS, max_size=8))
    def test_any_log_can_be_read(self, case: DriverCase, lines: list[str]) -> None:
        if isinstance(case.driver, ReadsItsLog):
            for service in case.services:
                found = case.driver.fatal_line(service, lines)
                assert found is None or isinstance(found, FatalLine)
                assert case.driver.fatal_line(service, lines) == found

    # --- ChecksVariables

    def test_variables_are_checked_and_not_repeated(self, case: DriverCase) -> None:
        if isinstance(case.driver, ChecksVariables):
            for service in case.services:
                case.driver.check_variables(service, {})
                for name in ("GPUMOD_TEST", *TOLD_BY_OTHERS):
                    refused = _refused(case.driver, service, name)
                    assert VALUE not in refused, "the value may be a secret"
                    assert not refused or name != "GPUMOD_TEST", "it refuses what says nothing to its runtime"

    # --- OffersVariants

    def test_variants_can_be_run_and_save_memory(self, case: DriverCase) -> None:
        if isinstance(case.driver, OffersVariants):
            for service in case.services:
                found = case.driver.variants(service)
                assert case.driver.variants(service) == found
                assert isinstance(found, Sequence)
                for variant in found:
                    assert isinstance(variant, Variant)
                    assert 0 < variant.saves_mb <= max(service.vram_mb, 1)
                    options = {**service.unit_vars, **variant.unit_vars}
                    case.driver.check(service.model_copy(update={"unit_vars": options}))

    # --- HostsMembers

    def test_who_hosts_members_can(self, case: DriverCase) -> None:
        assert not case.hosts or isinstance(case.driver, HostsMembers), "capabilities say that it hosts members"
        assert not isinstance(case.driver, HostsMembers) or case.hosts, "give an example of a host"

    def test_the_file_of_members_is_pure(self, case: DriverCase) -> None:
        if isinstance(case.driver, HostsMembers):
            for host in case.hosts:
                members = case.members(host)
                assert members, f"give an example of a member of {host.id}"
                if isinstance(case.driver, NamesMembers):
                    assert all(isinstance(case.driver.member_name(member), str) for member, _ in members)
                launch = launched(case, host)
                for some in ([], members[:1], members):
                    file = _file_of(case, host, some)
                    assert file == _file_of(case, host, some)
                    if file is None:
                        continue
                    assert not PurePosixPath(file.name).is_absolute()
                    assert all(member.id in file.content for member, _ in some)
                    assert file.name in {begun.name for begun in launch.files}, "it starts without its members' file"

    def test_a_host_may_say_anything(self, case: DriverCase) -> None:
        if isinstance(case.driver, HostsMembers):
            for host in case.hosts:
                for answer in ODD_ANSWERS:
                    asyncio.run(_members(case.driver, host, SameAnswer(answer)))

    @pytest.mark.parametrize("verb", ["load", "unload", "reload"])
    def test_a_host_that_is_away_is_told_as_an_error(self, case: DriverCase, verb: str) -> None:
        if isinstance(case.driver, HostsMembers):
            for host in case.hosts:
                if verb == "reload" and _file_of(case, host, []) is None:
                    continue  # there is nothing to read again
                whom = host if verb == "reload" else case.members(host)[0][0]
                act = getattr(case.driver, verb)
                with pytest.raises(GpumodError):
                    asyncio.run(act(whom, host.port or 1, NoAnswer("refused"), QuickClock()))

    # --- ReadsCommands

    def test_it_reads_its_own_command_lines(self, case: DriverCase) -> None:
        if isinstance(case.driver, ReadsCommands):
            for service in case.started:
                launch = launched(case, service)
                told = case.driver.read_command(CommandLine(argv=launch.argv, env=launch.env))
                assert isinstance(told, Told), f"not recognised: {launch.argv}"
                again = Service.model_validate({"id": service.id, "driver": service.driver, **told.fields})
                assert again.port == service.port

    @asked
    @given(words=st.lists(TEXTS, max_size=6), start=st.sampled_from(STRANGE))
    def test_it_reads_any_command_line(self, case: DriverCase, words: list[str], start: Sequence[str]) -> None:
        if isinstance(case.driver, ReadsCommands):
            told = case.driver.read_command(CommandLine(argv=(*start, *words)))
            assert told is None or isinstance(told, Told)


def _refused(driver: ChecksVariables, service: Service, name: str) -> str:
    """What a driver says against a variable; nothing where it takes it."""
    try:
        driver.check_variables(service, {name: VALUE})
    except ValueError as error:
        return str(error)
    return ""


def _file_of(case: DriverCase, host: Service, members: Sequence[tuple[Service, Allocation]]) -> LaunchFile | None:
    """The file that a host reads its members from, where it has one."""
    assert isinstance(case.driver, HostsMembers)
    return case.driver.members_file(host, members, case.settings)


async def _members(driver: HostsMembers, host: Service, http: SameAnswer) -> None:
    """What a host tells of its members: readings, or an error that the core expects."""
    try:
        found = await driver.members(host, host.port or 1, [], http)
    except (GpumodError, HttpFailure):
        return
    assert all(isinstance(reading, MemberReading) for reading in found.values())
