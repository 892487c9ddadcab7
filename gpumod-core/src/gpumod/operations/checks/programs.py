"""The runtimes' programs: where they were found, and which version they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gpumod.operations.checks.case import Case, fine, unseen, warning
from gpumod.operations.results import Check

PROGRAMS: Mapping[str, tuple[str, str]] = {
    "vllm": ("vllm", "vllm_bin"),
    "llamacpp": ("llama-server", "llama_server_bin"),
}
"""By driver: what its program is called, and the setting that names it, as well as the option of a service."""


def check_programs(case: Case) -> Iterator[Check]:
    """Drivers that are installed, or have services. What keeps a service from starting is told with the service."""
    machine = case.machine
    drivers = {*machine.plugins.drivers.names(), *(service.driver for service in case.services.values())}
    for driver, (name, setting) in PROGRAMS.items():
        if driver not in drivers:
            continue
        said = getattr(machine.settings, setting)
        users = [s for s in case.services.values() if s.driver == driver and not s.adopted and not s.host]
        own = {str(s.unit_vars[setting]) for s in users if s.unit_vars.get(setting)}
        needed = any(not s.unit_vars.get(setting) for s in users)
        told: set[Check] = set()  # a name and a path may mean the same program
        for word in sorted({said, *own}):
            for check in _program(case, name, word, setting, needed=needed or word != said):
                if check not in told:
                    told.add(check)
                    yield check


def _program(case: Case, name: str, word: str, setting: str, *, needed: bool) -> Iterator[Check]:
    found = case.around.programs((word,), case.machine.settings)
    if found:
        program = found[0]
        if program.failed:
            hint = f"run `{program.path} --version` yourself: what it lacks (a library, say) keeps services down"
            yield warning(name, f"{program.path}: {program.why}", hint)
        elif program.version is None:
            yield unseen(name, f"{program.path}: {program.why}")
        else:
            yield fine(name, f"{program.path}: {program.version}")
    elif needed:
        hint = f"install it; or say where it is: gpumod settings set bin_path FOLDER, or {setting} PATH"
        yield warning(name, f"{word} was not found, and services need it", hint)
    else:
        yield fine(name, f"{word} was not found, and no service needs it")
