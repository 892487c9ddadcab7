"""The driver of one's own HTTP services: any command that opens a port."""

from __future__ import annotations

from collections.abc import Sequence

from gpumod.api import (
    Activity,
    Allocation,
    Capabilities,
    CommandLine,
    FatalLine,
    Http,
    HttpFailure,
    Launch,
    ProbeResult,
    Service,
    Settings,
    Told,
    first_fatal,
)
from gpumod_fastapi.health import PROBE_TIMEOUT_S, ask_asleep, ask_health, count_at, failure, number_at, tells_asleep
from gpumod_fastapi.logs import RULES, startup_failed
from gpumod_fastapi.options import HTTP_LEVEL, check, command_of, fastapi_options, folder_of, says_port
from gpumod_fastapi.reading import read_command


class FastApiDriver:
    """Starts a command and asks its health path."""

    name = "fastapi"

    def check(self, service: Service) -> None:
        check(service)

    def capabilities(self, service: Service) -> Capabilities:
        options = fastapi_options(service)
        return Capabilities(
            sleep_levels=(HTTP_LEVEL,) if service.sleep_mode == HTTP_LEVEL else (),
            unloads_itself=options.unloads_itself or options.loads_by_use,
            loads_by_use=options.loads_by_use,
        )

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        """The command, filled in; the port is in the environment as PORT too. Raises ValueError."""
        check(service)
        options = fastapi_options(service)
        env = {"HF_HOME": settings.hf_home} if settings.hf_home else {}
        return Launch(
            argv=command_of(service, settings.bind_host),
            env=env | dict(options.env) | {"PORT": str(service.port)},
            cwd=folder_of(options),
            ports=(service.port,) if service.port else (),
            stop_timeout_s=options.stop_timeout_s,
        )

    def read_command(self, command: CommandLine) -> Told | None:
        return read_command(command)

    async def probe(self, service: Service, port: int, http: Http) -> ProbeResult:
        options = fastapi_options(service)
        try:
            reply = await ask_health(service, port, http)
            if service.sleep_mode == HTTP_LEVEL and not options.loads_by_use:
                elsewhere = options.asleep_path not in (None, service.health_endpoint)
                if tells_asleep(options, await ask_asleep(service, port, http) if elsewhere else reply):
                    return ProbeResult(state="sleeping")
        except HttpFailure as failed:
            if failed.kind == "refused":
                return ProbeResult(state="starting", detail=_not_listening(service, port))
            detail = f"no answer in {PROBE_TIMEOUT_S:g} s" if failed.kind == "timeout" else str(failed)
            return ProbeResult(state="unhealthy", detail=detail)
        if reply.status == options.health_status:
            return ProbeResult(state="ready")
        if why := failure(reply):
            return ProbeResult(state="failed", detail=why)
        if reply.status == 503 and "loading" in reply.text.lower():
            return ProbeResult(state="starting", detail="it says that it is loading")
        return ProbeResult(state="unhealthy", detail=f"{service.health_endpoint} answered {reply.status}")

    async def activity(self, service: Service, port: int, http: Http) -> Activity | None:
        """What `activity_path` tells; None where there is none, or it does not tell. Raises HttpFailure."""
        options = fastapi_options(service)
        if options.activity_path is None:
            return None
        reply = await http.request("GET", port, options.activity_path, timeout_s=PROBE_TIMEOUT_S)
        count = count_at(reply, options.activity_fields) if reply.ok else None
        if count is None:
            return None
        served, last_use_at = number_at(reply, "served"), number_at(reply, "last_use_at")
        return Activity(in_flight=count, served=served, last_use_at=last_use_at)

    def fatal_line(self, service: Service, lines: Sequence[str]) -> FatalLine | None:
        """Why it ended, in the words of its own log; asked only of one that did not become ready."""
        return first_fatal(RULES, lines) or startup_failed(lines)


def _not_listening(service: Service, port: int) -> str:
    """Also why a start timed out: a command that never heard of its port listens somewhere else, for ever."""
    known = service.adopted or says_port(service)  # whoever started an adopted one has told it
    ask = "" if known else ": its command does not use {port}; does the program read the variable PORT?"
    return f"nothing listens on port {port} yet{ask}"
