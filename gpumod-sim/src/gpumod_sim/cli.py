"""`gpumod sim`: the ledger, faults, a foreign process, how fast time runs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TextIO

import click

from gpumod.api import Failed, MachineLacks, Settings, UnknownName, UsageError
from gpumod_sim import faults, procs
from gpumod_sim.create import foreign_program
from gpumod_sim.ledger import Ledger
from gpumod_sim.machine import Machine
from gpumod_sim.probe import NO_MACHINE_HINT, no_machine

WATCH_S = 0.01
STOP_TIMEOUT_S = 5.0


class CliContext(Protocol):
    """What the parent `gpumod` puts into the context."""

    json: bool

    def settings(self) -> Settings: ...


def machine_of(context: click.Context) -> Machine:
    """The simulated machine of this home. Raises MachineLacks `no-simulated-machine`."""
    parent: CliContext = context.obj
    folder = parent.settings().sim_machine
    why = no_machine(folder)
    if why or folder is None:
        message = "there is no simulated machine"
        raise MachineLacks("no-simulated-machine", message, why=why or "", hint=NO_MACHINE_HINT)
    return Machine(folder)


def show(context: click.Context, value: Any, lines: list[str]) -> None:
    """Print `value` as one JSON document where that was asked for, else `lines`."""
    as_json = context.params.get("as_json") or context.obj.json
    click.echo(json.dumps(value, indent=2) if as_json else "\n".join(lines))


json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, expose_value=True, help="Print one JSON document."
)


@click.group()
def sim() -> None:
    """The simulated GPU machine: its ledger, faults, foreign processes, time."""


@sim.command()
@json_option
@click.pass_context
def ledger(context: click.Context, as_json: bool) -> None:
    """Who holds how much memory."""
    public = Ledger(machine_of(context)).public()
    lines = []
    for gpu in public["gpus"]:
        rows = [row for row in public["allocations"] if row["gpu"] == gpu["index"]]
        used_mb = sum(row["mb"] for row in rows)
        lines.append(f"GPU {gpu['index']} {gpu['name']}: {used_mb} of {gpu['total_mb']} MiB in use")
        lines += [f"  {row['mb']:>7} MiB  {row['service']}  (pid {row['pid'] or '-'})" for row in rows]
    lines += [f"  {row['mb']:>7} MiB of host RAM  {row['service']}  (pid {row['pid']})" for row in public["ram"]]
    show(context, public, lines)


@sim.command("watch-ledger")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
@click.pass_context
def watch_ledger(context: click.Context, file: Path, as_json: bool) -> None:
    """Write every change of the ledger to FILE, as a JSON document a line, until SIGINT or SIGTERM."""
    machine = machine_of(context)
    ended = False

    def end(_number: int, _frame: object) -> None:
        nonlocal ended
        ended = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    count = 0
    try:
        with file.open("w", encoding="utf-8") as output:
            follower = _Follower(machine)
            public = Ledger(machine).public()
            output.write(json.dumps({"at": time.time(), "event": "begin", **public, "used_mb": _used(public)}) + "\n")
            output.flush()
            while not ended:
                Ledger(machine).rows()  # notices who died
                count += follower.copy(output)
                time.sleep(WATCH_S)
            count += follower.copy(output)
    except OSError as error:
        raise Failed("cannot-write", f"cannot write {file}", why=str(error)) from error
    show(context, {"file": str(file), "changes": count}, [f"{count} changes written to {file}"])


def _used(public: dict[str, Any]) -> dict[str, int]:
    return {
        str(gpu["index"]): sum(row["mb"] for row in public["allocations"] if row["gpu"] == gpu["index"])
        for gpu in public["gpus"]
    }


class _Follower:
    """Follows the change log from its present end, through its rotation."""

    def __init__(self, machine: Machine) -> None:
        self._path = Path(machine.changes_path)
        self._path.touch(mode=0o600)
        self._input = self._path.open(encoding="utf-8")
        self._input.seek(0, os.SEEK_END)

    def copy(self, output: TextIO) -> int:
        """Append what is new to `output`, flushed; how many lines."""
        lines = self._input.readlines()
        inode = os.fstat(self._input.fileno()).st_ino
        if self._path.exists() and self._path.stat().st_ino != inode:
            lines += self._input.readlines()
            self._input.close()
            self._input = self._path.open(encoding="utf-8")
            lines += self._input.readlines()
        if lines:
            output.writelines(lines)
            output.flush()
        return len(lines)


@sim.command()
@click.argument("service", required=False)
@click.argument("kind", required=False)
@click.argument("value", required=False, type=float)
@click.option("--clear", is_flag=True, help="Clear this fault, all of SERVICE, or all.")
@json_option
@click.pass_context
def fault(
    context: click.Context, service: str | None, kind: str | None, value: float | None, clear: bool, as_json: bool
) -> None:
    """Set a fault of a service, clear faults, or (without arguments) list them.

    \b
    never-ready, die-after SECONDS, ignore-sigterm, leak MB, sleep-frees-nothing, sleep-500, sleep-hangs,
    sleep-refused, sleep-dies, wake-oom, slow-start FACTOR, cpu-fallback, hang, oom-at-start,
    short-context TOKENS, setsid-worker [MB]
    """
    machine = machine_of(context)
    if kind is not None and kind not in faults.KINDS:
        raise UnknownName("unknown-fault", f"there is no fault '{kind}'", hint=f"there are {', '.join(faults.KINDS)}")
    if clear:
        faults.clear(machine, service, kind)
        if kind in (None, "leak"):
            Ledger(machine).forget_leaks(service)
    elif service is not None:
        if kind is None:
            raise UsageError("no-fault", "say which fault", hint=f"one of {', '.join(faults.KINDS)}, or --clear")
        try:
            faults.put(machine, service, kind, value)
        except ValueError as error:
            raise UsageError("bad-fault", str(error), hint="see `gpumod sim fault --help`") from error
    found = faults.all_faults(machine)
    shown = [
        {"service": owner, "kind": name, "value": data["value"] if faults.KINDS[name][1] else None}
        for owner, kinds in found.items()
        for name, data in kinds.items()
    ]
    lines = [
        f"{row['service']}: {row['kind']} {'' if row['value'] is None else row['value']} "
        f"({faults.KINDS[str(row['kind'])][0]})"
        for row in shown
    ]
    show(context, {"faults": shown}, lines or ["no faults are set"])


@sim.command()
@click.argument("mb", required=False, type=click.IntRange(min=1))
@click.option("--gpu", type=int, default=0, show_default=True, help="Index of the GPU.")
@click.option("--name", default="game", show_default=True, help="Name of the process.")
@click.option("--stop", is_flag=True, help="End all foreign processes.")
@json_option
@click.pass_context
def foreign(context: click.Context, mb: int | None, gpu: int, name: str, stop: bool, as_json: bool) -> None:
    """Start a process that gpumod does not manage and that takes MB of a GPU, until it is stopped."""
    machine = machine_of(context)
    if stop:
        stopped = _stop_foreign(machine)
        show(context, {"stopped": stopped}, [f"stopped {len(stopped)} foreign processes"])
        return
    if mb is None:
        raise UsageError("no-size", "say how many MB it takes, or --stop", hint="gpumod sim foreign 4000")
    if gpu not in {card["index"] for card in machine.gpus()}:
        raise UnknownName("unknown-gpu", f"there is no GPU {gpu}", hint="see `gpumod sim ledger`")
    program = foreign_program(machine.folder, name)
    pid, said = procs.start_and_hear([program, f"foreign:{name}", str(gpu), str(mb)], {})
    if said != "held":
        raise Failed("no-memory", f"GPU {gpu} has not {mb} MiB to give", why=said, hint="see `gpumod sim ledger`")
    value = {"pid": pid, "name": name, "gpu": gpu, "mb": mb}
    show(context, value, [f"{name} (pid {pid}) holds {mb} MiB of GPU {gpu}"])


def _stop_foreign(machine: Machine) -> list[int]:
    """End the foreign processes; returns when they are gone."""
    rows = [row for row in Ledger(machine).rows() if row["pid"] and row["service"].startswith("foreign:")]
    living = {row["pid"]: row["start"] for row in rows if procs.start_time(row["pid"]) == row["start"]}
    for pid in living:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while any(procs.start_time(pid) == start for pid, start in living.items()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return sorted(living)


def _show_or_set(context: click.Context, key: str, unit: str, value: float | None) -> None:
    """Show one number of the machine, or set it first."""
    machine = machine_of(context)
    if value is not None:
        if not (0 < value < float("inf") or (value == 0 and key != "speed")):
            name = context.info_name
            raise UsageError("bad-value", f"{value:g} is no {unit}", hint=f"gpumod sim {name} --help")
        # RAM of 0 means the real host's.
        machine.configure(**{key: (int(value) or None) if key == "ram_mb" else value})
    now = machine.config().get(key)
    said = "of the real host" if now is None else f"{now:g}"
    show(context, {key: now}, [f"{context.info_name}: {said} {unit}".rstrip()])


@sim.command()
@click.argument("value", required=False, type=float)
@json_option
@click.pass_context
def speed(context: click.Context, value: float | None, as_json: bool) -> None:
    """Show or set how many times faster than published time runs."""
    _show_or_set(context, "speed", "times as fast", value)


@sim.command()
@click.argument("value", required=False, type=float)
@click.option("--living", is_flag=True, help="The lag of memory that a living process gave back, as by sleeping.")
@json_option
@click.pass_context
def lag(context: click.Context, value: float | None, living: bool, as_json: bool) -> None:
    """Show or set how long (real seconds) memory stays in use after its process died."""
    _show_or_set(context, "living_lag_s" if living else "lag_s", "seconds", value)


@sim.command()
@click.argument("value", required=False, type=float)
@json_option
@click.pass_context
def ram(context: click.Context, value: float | None, as_json: bool) -> None:
    """Show or set the host RAM of the machine, in MB; 0: the real host's."""
    _show_or_set(context, "ram_mb", "MB", value)
