"""From a launch to a running shim: what the shim is told, which program is meant, and what can go wrong."""

from __future__ import annotations

import marshal
import os
import select
import signal
import time
from collections.abc import Mapping
from typing import Any

from gpumod.adapters.launches import cannot_execute, resolved
from gpumod.adapters.process.forking import Nursery
from gpumod.adapters.process.proc import NONCE_VARIABLE, SHIM_VARIABLE, by_nonce, send
from gpumod.adapters.process.records import LOGS_KEPT, Records
from gpumod.domain.errors import Failed, GpumodError
from gpumod.domain.run import Handle
from gpumod.domain.settings import Settings
from gpumod.ports import Launch

START_TIMEOUT_S = 30.0


def orders(
    handle: Handle, launch: Launch, env: Mapping[str, str], records: Records, settings: Settings
) -> dict[str, Any]:
    """What the shim is told. Secrets may be in it: it goes through a pipe, never into an argument or a file."""
    service = handle.service
    found = resolved(service, launch, env, records.folder(service), settings)
    variables = found.env
    variables.pop(SHIM_VARIABLE, None)
    variables[NONCE_VARIABLE] = handle.nonce
    return {
        "folder": str(records.run_folder(service)),
        "nonce": handle.nonce,
        "service": service,
        "exe": found.program,
        "argv": list(found.argv),
        "env": variables,
        "cwd": str(found.cwd),
        "log": str(records.log(service)),
        "log_max_bytes": settings.log_max_mb * 1024 * 1024,
        "log_keep": LOGS_KEPT,
        "stop_timeout_s": launch.stop_timeout_s,
    }


def not_started(service: str, program: str, answer: Mapping[str, Any]) -> GpumodError:
    why = str(answer.get("why", "it gave no reason"))
    if answer.get("error") == "exec":
        return cannot_execute(service, program, why)
    return Failed(
        "cannot-start",
        f"service {service} could not be started",
        why=why,
        hint="see whether the machine is overloaded and whether the home can be written: gpumod doctor",
    )


def run_shim(nursery: Nursery, nonce: str, orders: dict[str, Any]) -> dict[str, Any]:
    """Have a shim forked, give it its orders and return its answer. Blocks; nothing is left to wait for."""
    told = os.memfd_create("gpumod-orders")
    heard, answer = os.pipe()
    try:
        with nursery.held():
            os.write(told, marshal.dumps(orders))
            os.lseek(told, 0, os.SEEK_SET)
            try:
                nursery.fork(nonce, told, answer)
            except OSError as error:
                return {"error": "shim", "why": f"no process could be made: {error.strerror or error}"}
            finally:
                os.close(answer)
            text = _read_all(heard, time.monotonic() + START_TIMEOUT_S)
    finally:
        os.close(told)
        os.close(heard)
    if text is None:
        for process in by_nonce([nonce])[nonce]:
            send(process, signal.SIGKILL)
        return {"error": "timeout", "why": f"nothing was heard of it for {START_TIMEOUT_S:g} s"}
    if not text.startswith(b"\0"):
        last = text.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return {"error": "shim", "why": f"the shim ended without an answer: {last or 'it said nothing'}"}
    answered: dict[str, Any] = marshal.loads(text[1:])  # noqa: S302 - from the very interpreter that we started
    return answered


def _read_all(pipe: int, deadline: float) -> bytes | None:
    """What is written to the pipe until its other end is closed; None when that takes too long."""
    text = b""
    while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = os.read(pipe, 65536)
        if not piece:
            return text
        text += piece
    return None
