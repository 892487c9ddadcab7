"""The llama.cpp driver: a router that hosts members, or a server of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpumod.api import (
    Activity,
    Allocation,
    Answer,
    Capabilities,
    Clock,
    CommandLine,
    Failed,
    FatalLine,
    Http,
    HttpFailure,
    Launch,
    LaunchFile,
    MemberReading,
    ProbeResult,
    Service,
    Settings,
    Told,
    Variant,
    first_fatal,
)
from gpumod_llamacpp import router, suits
from gpumod_llamacpp.activity import read_activity
from gpumod_llamacpp.logs import RULES, telling_lines
from gpumod_llamacpp.options import (
    ROUTER_LEVEL,
    check,
    check_variables,
    llamacpp_options,
    model_settings,
    process_stop_s,
)
from gpumod_llamacpp.preset import FILE_NAME, render_preset, section
from gpumod_llamacpp.reading import read_command
from gpumod_llamacpp.variants import variants

PROBE_TIMEOUT_S = 2.0
SHORT = {"model": "-m", "hf-repo": "-hf", "ctx-size": "-c"}


class LlamaCppDriver:
    """Starts and asks `llama-server`."""

    name = "llamacpp"

    def check(self, service: Service) -> None:
        check(service)
        if service.host is not None:
            section(service)

    def check_variables(self, service: Service, variables: Mapping[str, str]) -> None:
        check_variables(service, variables)

    def capabilities(self, service: Service) -> Capabilities:
        return Capabilities(
            sleep_levels=(ROUTER_LEVEL,) if service.host is not None else (),
            hosts_members=llamacpp_options(service).router,
        )

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        """The command line of a router or of a single model. Raises ValueError for a member: its host loads it."""
        self.check(service)
        if service.host is not None:
            raise ValueError(f"service {service.id!r} is loaded by its host {service.host!r}, not started")
        options = llamacpp_options(service)
        words = _router_words() if options.router else _model_words(service)
        env = {"HF_HOME": settings.hf_home} if settings.hf_home else {}
        return Launch(
            argv=(
                options.llama_server_bin or settings.llama_server_bin,
                *words,
                "--host",
                settings.bind_host,
                "--port",
                str(service.port),
                *options.extra_args,
            ),
            env=env | dict(options.env),
            files=(self.members_file(service, (), settings),) if options.router else (),
            ports=(service.port,) if service.port else (),
            stop_timeout_s=process_stop_s(options),
        )

    def questions(self, service: Service, launch: Launch, settings: Settings) -> tuple[tuple[str, ...], ...]:
        words = _model_words(service) if service.host is not None else ()
        return suits.questions(service, launch, words)

    def suited(self, service: Service, launch: Launch, answers: Sequence[Answer]) -> Launch:
        """Raises ValueError with what this llama-server does not take."""
        suits.refuse_what_it_does_not_take(service, answers)
        return launch

    def read_command(self, command: CommandLine) -> Told | None:
        return read_command(command)

    async def probe(self, service: Service, port: int, http: Http) -> ProbeResult:
        if service.host is not None:
            return await router.probe(service, port, http)
        try:
            health = await http.request("GET", port, service.health_endpoint, timeout_s=PROBE_TIMEOUT_S)
        except HttpFailure as failure:
            if failure.kind == "refused":
                return ProbeResult(state="starting", detail="not listening yet")
            detail = f"no answer in {PROBE_TIMEOUT_S:g} s" if failure.kind == "timeout" else str(failure)
            return ProbeResult(state="unhealthy", detail=detail)
        if health.ok:
            return ProbeResult(state="ready")
        if health.status == 503 and "loading" in health.text.lower():
            return ProbeResult(state="starting", detail="loading the model")
        return ProbeResult(state="unhealthy", detail=f"{service.health_endpoint} answered {health.status}")

    async def activity(self, service: Service, port: int, http: Http) -> Activity | None:
        """Of a member or a single model; a router has none of its own."""
        return None if llamacpp_options(service).router else await read_activity(service, port, http)

    def fatal_line(self, service: Service, lines: Sequence[str]) -> FatalLine | None:
        return first_fatal(RULES, telling_lines(service, lines))

    def variants(self, service: Service) -> tuple[Variant, ...]:
        return variants(service)

    # --- hosting: the router's members

    def members_file(
        self,
        host: Service,
        members: Sequence[tuple[Service, Allocation]],
        settings: Settings,
    ) -> LaunchFile:
        """The router's file with exactly these members. Raises UsageError `bad-ini-value`."""
        return LaunchFile(name=FILE_NAME, content=render_preset(members))

    async def members(
        self,
        host: Service,
        port: int,
        pids: Sequence[int],
        http: Http,
    ) -> Mapping[str, MemberReading]:
        """Raises HttpFailure, and Failed `router-error`."""
        known = await router.entries(port, http)
        children = router.child_pids(pids)
        return {name: router.reading(entry, children.get(name)) for name, entry in known.items()}

    async def reload(self, host: Service, port: int, http: Http, clock: Clock) -> None:
        """Raises Failed `router-error`. Members whose section is unchanged stay loaded."""
        try:
            await router.entries(port, http, reload=True)
        except HttpFailure as failure:
            raise Failed("router-error", f"{host.id} did not read its file again", why=str(failure)) from failure

    async def load(self, member: Service, port: int, http: Http, clock: Clock) -> None:
        await router.load(member, port, http, clock)

    async def unload(self, member: Service, port: int, http: Http, clock: Clock) -> None:
        await router.unload(member, port, http, clock)


def _router_words() -> list[str]:
    # gpumod decides how many are loaded, and when; the router must neither load by itself nor evict.
    return ["--models-preset", "{service_dir}/" + FILE_NAME, "--models-max", "0", "--no-models-autoload"]


def _model_words(service: Service) -> list[str]:
    words: list[str] = []
    for name, value in model_settings(service):
        words.append(SHORT.get(name, f"--{name}"))
        if value is not None:
            words.append(value)
    return [*words, "--alias", service.id]
