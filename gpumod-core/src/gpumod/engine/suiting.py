"""How a service is launched by the program that is there: drivers that want to know its version have it asked."""

from __future__ import annotations

from collections.abc import Sequence

from gpumod.domain.service import Service
from gpumod.engine.machine import HOSTED, Machine
from gpumod.ports import Allocation, Answer, AsksPrograms, Launch, SuitsItsProgram


async def launch_of(machine: Machine, service: Service, allocation: Allocation, keeper: str | None = None) -> Launch:
    """How `service` is started by `keeper` (None: whoever keeps it by its definition).

    What a preflight saw is what is started: the same program is not asked twice. Raises ValueError for what cannot be
    as it is defined, or is not taken by its program; UnknownName.
    """
    launch = machine.launch(service, allocation, keeper)
    return await _suited(machine, service, launch, service, keeper or machine.supervisor_name(service))


async def ask_host(machine: Machine, member: Service, host: Service) -> None:
    """Raise ValueError where the program of `host`, as it is up or would be started, does not take `member`."""
    if not isinstance(machine.driver(member), SuitsItsProgram):
        return
    handle = machine.store.handles().get(host.id)
    kept = handle.launched if handle else host
    keeper = handle.supervisor if handle else machine.supervisor_name(host)
    await _suited(machine, member, machine.launch(kept, Allocation(), keeper), kept, keeper)


async def _suited(machine: Machine, service: Service, launch: Launch, process: Service, keeper: str) -> Launch:
    """`launch` (of `process`) as its program takes it for `service`."""
    driver = machine.driver(service)
    if not isinstance(driver, SuitsItsProgram) or keeper == HOSTED or keeper not in machine.plugins.supervisors:
        return launch
    supervisor = machine.supervisor(keeper)
    if not isinstance(supervisor, AsksPrograms):
        return launch
    answers: list[Answer] = []
    for question in driver.questions(service, launch, machine.settings):
        answer = await supervisor.ask(process.id, launch, question)
        if answer is None:
            return launch
        answers.append(answer)
    return driver.suited(service, launch, answers) if _told(answers) else launch


def _told(answers: Sequence[Answer]) -> bool:
    return any(answer.exit_code is not None for answer in answers)
