"""What a systemd manager says of itself and of units. One question each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from gpumod.adapters.systemd import states
from gpumod.adapters.systemd.manager import Manager, Properties, refused
from gpumod.ports.checkup import LoadedUnit, ManagerFacts

MIB = 1024 * 1024
OF_MANAGER = ("Version", "SystemState", "NFailedUnits")
OF_UNIT = (
    *("Id", "LoadState", "Type", "UnitFileState", "TimeoutStartUSec", "TimeoutStopUSec", "NeedDaemonReload"),
    *("MemoryMax", "LimitMEMLOCK"),
)


def manager_facts(manager: Manager, timeout_s: float) -> ManagerFacts:
    """Raises MachineLacks where there is no such manager, Failed where it does not answer in time."""
    shown = _show(manager, OF_MANAGER, (), timeout_s)[0]
    failed = shown.get("NFailedUnits", "")
    return ManagerFacts(
        version=shown.get("Version", ""),
        state=shown.get("SystemState", ""),
        failed_units=int(failed) if failed.isdigit() else 0,
    )


def units(manager: Manager, names: Collection[str], timeout_s: float) -> Mapping[str, LoadedUnit]:
    """Those of `names`; one that is not there has `loaded` False. Raises as :func:`manager_facts`."""
    blocks = _show(manager, OF_UNIT, sorted(names), timeout_s)
    # a unit is told by its own name, so that of an alias is the place of its answer
    return {name: _unit(block) for name, block in zip(sorted(names), blocks, strict=False)}


def _unit(shown: Properties) -> LoadedUnit:
    return LoadedUnit(
        loaded=shown.get("LoadState") == "loaded",
        load_state=shown.get("LoadState", ""),
        kind=shown.get("Type", ""),
        file_state=shown.get("UnitFileState", ""),
        start_timeout_s=states.seconds(shown, "TimeoutStartUSec"),
        stop_timeout_s=states.seconds(shown, "TimeoutStopUSec"),
        changed=shown.get("NeedDaemonReload") == "yes",
        memory_mb=_mib(shown, "MemoryMax"),
        memlock_mb=_mib(shown, "LimitMEMLOCK"),
    )


def _show(
    manager: Manager, properties: Sequence[str], names: Sequence[str], timeout_s: float
) -> Sequence[Mapping[str, str]]:
    user = ["--user"] if manager.scope == "user" else []
    words = ["systemctl", *user, "--no-ask-password", "--no-pager", "show", "--property", ",".join(properties)]
    answer = manager.run([*words, *(["--", *names] if names else [])], timeout_s)
    if answer.code:
        raise refused(manager.scope, "cannot be asked", answer)
    return [dict(line.partition("=")[::2] for line in block.splitlines()) for block in answer.out.split("\n\n")]


def _mib(shown: Properties, name: str) -> int | None:
    """Bytes that systemd tells, in MiB; None for `infinity` and what it does not tell."""
    text = shown.get(name, "")
    return int(text) // MIB if text.isdigit() and int(text) < 2**63 else None
