"""How a vLLM sleeps and wakes, at level 1 and 2, verified by its own word."""

from __future__ import annotations

from typing import NoReturn

from gpumod.api import Clock, Failed, Http, HttpFailure, HttpReply, Service, busy, metric_sum, poll
from gpumod_vllm.activity import activity_in
from gpumod_vllm.canary import canary
from gpumod_vllm.options import vllm_options

RESIDUE_MB = 1100
SETTLE_S = 5.0
AWAKE = 0
LEVELS = {'sleep_state="awake"': AWAKE, 'sleep_state="weights_offloaded"': 1, 'sleep_state="discard_all"': 2}
"""Labels of the metric that tells at which level an engine sleeps. One that says that it sleeps and counts as awake
there is paused: requests in flight go on, all memory is held, and a sleep may follow when they have ended."""
DEV_MODE_HINT = "start it by gpumod with sleep_mode l1 or l2, which sets VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode"


class VllmSleep:
    """What both levels share. Called again on what sleeps (or is awake) already, both do nothing."""

    level: int

    def residue_mb(self, service: Service, vram_mb: int) -> int | None:
        """MiB kept on each GPU: CUDA context, graphs and pools outside the sleeping allocator.

        1100 stands for published logs of single-GPU models: 774 (Llama-3.2-1B), 1140 (Qwen3-30B, per GPU), 1340
        (14B) and 1410 (8B). A measurement replaces it.
        """
        gpus = 1 if service.gpus == "any" else len(service.gpus)
        return min(RESIDUE_MB * gpus, vram_mb)

    def ram_mb(self, service: Service, vram_mb: int) -> int | None:
        raise NotImplementedError

    async def sleep(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        """Let running requests finish, sleep, and see that it does.

        One that sleeps at another level is woken first: vLLM takes a second call for done, and does nothing. One that
        is only paused is told once more, and waited for. Raises Failed `busy`, `sleep-not-enabled`, `sleep-failed` or
        `sleep-timeout`, and what waking raises.
        """
        timeout_s, level = vllm_options(service).sleep_timeout_s, None
        if await is_asleep(service, port, http, "sleep"):
            level = await level_of(port, http)
            if level in (None, self.level):
                return
            if level != AWAKE:
                await WAKES[level](service, port, http, clock)
        if level != AWAKE:  # one that is paused never gets empty: what came since waits for its wake
            await drain(service, port, http, clock, timeout_s)
        query = [("level", str(self.level)), ("mode", "wait")]  # for what comes in between; before 0.17 it is not known
        await post(service, port, http, "/sleep", "sleep", timeout_s=timeout_s, query=query)
        await settle(service, port, http, clock, asleep=True)

    async def wake(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        """Wake it from the level at which it really sleeps, its own where it does not tell.

        Raises Failed `sleep-not-enabled`, `wake-failed`, `wake-timeout` or `wake-garbage`. One that is only paused is
        not woken while requests run: vLLM (0.32) would fall asleep all the same when the last one ends, and die of the
        next.
        """
        if await is_asleep(service, port, http, "wake"):
            level = await level_of(port, http)
            if level == AWAKE and await _runs(port, http):  # older ones tell so of one that has woken in part, too
                why = "it is paused, and falls asleep when its requests in flight have ended"
                fail(service, "wake", why, timed_out=True)
            await WAKES[level or self.level](service, port, http, clock)


class L1Sleep(VllmSleep):
    """Weights go to host RAM, the KV cache is dropped."""

    level = 1

    def ram_mb(self, service: Service, vram_mb: int) -> int | None:
        """An upper bound: the weights, which are all of `vram_mb` but the KV cache."""
        return vram_mb


class L2Sleep(VllmSleep):
    """Weights and KV cache are dropped; waking reads the weights from disk again."""

    level = 2

    def ram_mb(self, service: Service, vram_mb: int) -> int | None:
        return 0


async def wake_offloaded(service: Service, port: int, http: Http, clock: Clock) -> None:
    """All comes back from host RAM. Raises Failed."""
    timeout_s = vllm_options(service).wake_timeout_s
    say_awake(service, await post(service, port, http, "/wake_up", "wake", timeout_s=timeout_s))
    await settle(service, port, http, clock, asleep=False)


async def wake_discarded(service: Service, port: int, http: Http, clock: Clock) -> None:
    """Memory for the weights, the weights, memory for the KV cache, an empty prefix cache, then a canary.

    Without the second step vLLM serves garbage and says nothing. Raises Failed, also `wake-garbage`.
    """
    timeout_s = vllm_options(service).wake_timeout_s
    await post(service, port, http, "/wake_up", "wake", timeout_s=timeout_s, query=[("tags", "weights")])
    body = {"method": "reload_weights"}
    await post(service, port, http, "/collective_rpc", "wake", timeout_s=timeout_s, json_body=body)
    query = [("tags", "kv_cache")]
    say_awake(service, await post(service, port, http, "/wake_up", "wake", timeout_s=timeout_s, query=query))
    await settle(service, port, http, clock, asleep=False)
    await post(service, port, http, "/reset_prefix_cache", "wake", timeout_s=timeout_s)
    await canary(service, port, http, timeout_s=timeout_s)


WAKES = {1: wake_offloaded, 2: wake_discarded}


async def drain(service: Service, port: int, http: Http, clock: Clock, timeout_s: float) -> None:
    """Wait for the requests in flight, by `/metrics`. Raises Failed: `busy` when they do not end, `sleep-timeout` when
    there is no answer.

    vLLM lets requests finish too, but cannot be called back from waiting for a long one.
    """
    left = 0

    async def ask() -> bool | None:
        nonlocal left
        try:
            reply = await http.request("GET", port, "/metrics")
        except HttpFailure as failure:
            return None if failure.kind == "timeout" else True
        told = activity_in(reply.text) if reply.ok else None
        left = told.in_flight if told is not None else 0
        return True if left == 0 else None

    if not await poll(clock, ask, timeout_s):
        if not left:
            fail(service, "sleep", f"/metrics did not answer in {timeout_s:g} s", timed_out=True)
        raise busy(service, f"{left} request{'s were' if left > 1 else ' was'} still in flight after {timeout_s:g} s")


async def level_of(port: int, http: Http) -> int | None:
    """The level at which a sleeper sleeps, by its metrics: `AWAKE` for one that is only paused, None where they do not
    tell (older ones do not)."""
    try:
        reply = await http.request("GET", port, "/metrics")
    except HttpFailure:
        return None
    told = (line for line in reply.text.splitlines() if line.startswith("vllm:engine_sleep_state{"))
    found = {level for line in told for name, level in LEVELS.items() if name in line and line.split()[-1:] == ["1.0"]}
    return found.pop() if len(found) == 1 else None


async def _runs(port: int, http: Http) -> bool:
    """True while requests are being worked at, by its metrics, or where they do not tell; those that wait are none."""
    try:
        reply = await http.request("GET", port, "/metrics")
    except HttpFailure:
        return True
    running = metric_sum(reply.text, "vllm:num_requests_running") if reply.ok else None
    return running is None or running > 0


async def is_asleep(service: Service, port: int, http: Http, verb: str) -> bool:
    """vLLM's own word. Raises Failed when it gives none."""
    try:
        reply = await http.request("GET", port, "/is_sleeping")
    except HttpFailure as failure:
        fail(service, verb, f"/is_sleeping: {failure}", timed_out=failure.kind == "timeout")
    if reply.status == 404:
        not_enabled(service)
    asleep = reply.json_body.get("is_sleeping") if isinstance(reply.json_body, dict) else None
    if not reply.ok or not isinstance(asleep, bool):
        fail(service, verb, f"/is_sleeping answered {reply.status}: {reply.text[:200]}")
    return asleep


async def post(
    service: Service,
    port: int,
    http: Http,
    path: str,
    verb: str,
    *,
    timeout_s: float,
    query: list[tuple[str, str]] | None = None,
    json_body: object = None,
) -> HttpReply:
    """POST that must be answered 2xx. Raises Failed named after `verb`."""
    try:
        reply = await http.request("POST", port, path, query=query or [], json_body=json_body, timeout_s=timeout_s)
    except HttpFailure as failure:
        if failure.kind == "timeout":
            fail(service, verb, f"{path} did not answer in {timeout_s:g} s", timed_out=True)
        fail(service, verb, f"{path}: {failure}")
    if reply.status == 404:
        not_enabled(service)
    if not reply.ok:
        fail(service, verb, f"{path} answered {reply.status}: {reply.text[:200]}")
    return reply


def say_awake(service: Service, reply: HttpReply) -> None:
    """Raise Failed when the answer to the last `/wake_up` says otherwise; older releases answer with nothing."""
    status = reply.json_body.get("status", "awake") if isinstance(reply.json_body, dict) else "awake"
    if status != "awake":
        fail(service, "wake", f"/wake_up answered that it is still {status!r}")


async def settle(service: Service, port: int, http: Http, clock: Clock, *, asleep: bool) -> None:
    """Wait until `/is_sleeping` says `asleep`. Raises Failed when it does not."""
    verb = "sleep" if asleep else "wake"

    async def ask() -> bool | None:
        return True if await is_asleep(service, port, http, verb) is asleep else None

    if not await poll(clock, ask, SETTLE_S):
        fail(service, verb, f"it says that it is {'awake' if asleep else 'asleep'}, {SETTLE_S:g} s after it agreed")


def not_enabled(service: Service) -> NoReturn:
    raise Failed(
        "sleep-not-enabled",
        f"{service.id} has no sleep routes",
        why="vLLM answered 404: it was started without VLLM_SERVER_DEV_MODE=1",
        hint=DEV_MODE_HINT,
        service=service.id,
    )


def fail(service: Service, verb: str, why: str, *, timed_out: bool = False) -> NoReturn:
    raise Failed(
        f"{verb}-{'timeout' if timed_out else 'failed'}",
        f"{service.id} did not {'fall asleep' if verb == 'sleep' else 'wake'}",
        why=why,
        hint=f"see `gpumod service logs {service.id}`; the option {verb}_timeout_s says how long it may take"
        if timed_out
        else f"see `gpumod service logs {service.id}`",
        service=service.id,
    )
