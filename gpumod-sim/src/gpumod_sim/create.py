"""Making the folder of a simulated machine: its cards, its ledger, the programs of its services."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from gpumod.api import Failed, UsageError
from gpumod_sim.machine import DEFAULT_LAG_S, DEFAULT_LIVING_LAG_S, DEFAULT_RAM_MB, DEFAULT_SPEED, Machine, write_json

# folder/name -> the module whose `main(folder, argv)` it runs
PROGRAMS = {
    "bin/vllm": "vllm_program",
    "bin/llama-server": "llama",
    "bin/ollama": "ollama",
    "bin/uvicorn": "app",
    "libexec/game": "holder",
    "libexec/vllm-worker": "holder",
    "libexec/llama-server-worker": "holder",
    "libexec/ollama-runner": "ollama_runner",
    "libexec/uvicorn-worker": "holder",
}
OURS = {"bin", "libexec", "lock", "ledger.json", "machine.json"}
"""What a folder may hold in which the making of a machine was cut off."""
MAX_NAME = 15  # what the kernel keeps of a process' name
MAX_SHEBANG = 120  # the kernel's limit is 127 bytes on old kernels

SCRIPT = """\
import sys
sys.path.insert(0, {package!r})
sys.modules["ssl"] = None  # nothing here speaks TLS, and importing it costs milliseconds
from gpumod_sim.{module} import main
raise SystemExit(main({folder!r}, sys.argv[1:]))
"""


def create_machine(folder: Path, gpus: Sequence[tuple[str, int]]) -> dict[str, str]:
    """Make (or complete) the machine in `folder`, with a card for each (name, MiB); without cards, join one there.

    Returns the settings of a home that uses it. Idempotent. Raises UsageError for no cards where there is no machine
    yet, a card without memory, a machine that has other cards, and a folder that holds other things; and Failed
    `bad-folder` for one that cannot be written to.
    """
    try:
        there = Machine(str(folder.absolute())).exists()
    except OSError as error:
        raise _bad_folder(folder, error) from error
    if any(total_mb <= 0 for _, total_mb in gpus) or not (gpus or there):
        hint = 'say for instance "RTX 4090:24564"'
        raise UsageError("bad-gpus", "a simulated machine needs GPUs with memory", hint=hint)
    folder = folder.absolute()
    _make_folders(folder)
    machine = Machine(str(folder))
    cards = [{"index": index, "name": name, "total_mb": total_mb} for index, (name, total_mb) in enumerate(gpus)]
    with machine.lock():
        if machine.exists():
            _refuse_other_cards(machine, cards or machine.gpus())
        else:
            settings = {
                "speed": DEFAULT_SPEED,
                "lag_s": DEFAULT_LAG_S,
                "living_lag_s": DEFAULT_LIVING_LAG_S,
                "ram_mb": DEFAULT_RAM_MB,
                "seed": 1,
            }
            write_json(machine.ledger_path, {"rows": []})
            write_json(machine.config_path, {"version": 1, "gpus": cards, **settings})
        for name, module in PROGRAMS.items():
            _write_program(folder / name, SCRIPT.format(package=_package_root(), module=module, folder=str(folder)))
    return {"sim_machine": str(folder), "bin_path": str(folder / "bin"), "gpu_probe": "sim"}


def _make_folders(folder: Path) -> None:
    """Make the folder and those in it. One with files of somebody else is left alone."""
    try:
        others = sorted({path.name for path in folder.iterdir()} - OURS) if folder.exists() else []
        if others and not Machine(str(folder)).exists():
            raise UsageError(
                "not-empty",
                f"{folder} is no simulated machine, and holds other files",
                why=f"it has {', '.join(others[:3])}",
                hint="name a folder that is not there yet, or an empty one",
            )
        for path in (folder, folder / "bin", folder / "libexec"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _bad_folder(folder, error) from error


def _bad_folder(folder: Path, error: OSError) -> Failed:
    return Failed(
        "bad-folder",
        f"no simulated machine can be made in {folder}",
        why=str(error),
        hint="name a folder that you may write to",
    )


def foreign_program(folder: str, name: str) -> str:
    """The path of a program of that name that holds memory. Raises UsageError for a name that is no file's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or len(name) > MAX_NAME:
        hint = f"use up to {MAX_NAME} letters, digits, . _ -"
        raise UsageError("bad-name", f"{name!r} cannot name a process", hint=hint)
    path = Path(folder) / "libexec" / name
    _write_program(path, SCRIPT.format(package=_package_root(), module="holder", folder=folder))
    return str(path)


def _refuse_other_cards(machine: Machine, cards: list[dict[str, object]]) -> None:
    if machine.gpus() == cards:
        return
    has = ", ".join(f"{card['name']}:{card['total_mb']}" for card in machine.gpus())
    raise UsageError(
        "machine-exists",
        f"{machine.folder} is a simulated machine with other cards",
        why=f"it has {has}",
        hint="make other cards in a home of their own (gpumod --home FOLDER init --sim ...), or use the same",
    )


def _package_root() -> str:
    return str(Path(__file__).resolve().parent.parent)


def _write_program(path: Path, body: str) -> None:
    """An executable Python script, replaced atomically: a service may be starting it now."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(_shebang() + body, encoding="utf-8")
    temporary.chmod(0o700)
    temporary.replace(path)


def _shebang() -> str:
    """Isolated and without site: the quickest start. Through sh where the kernel could not read the path."""
    python = sys.executable or shutil.which("python3") or "/usr/bin/python3"
    if " " not in python and len(python) < MAX_SHEBANG:
        return f"#!{python} -IS\n"
    quoted = python.replace("'", "'\\''")
    return f"#!/bin/sh\n'''exec' '{quoted}' -IS \"$0\" \"$@\"\n' '''\n"
