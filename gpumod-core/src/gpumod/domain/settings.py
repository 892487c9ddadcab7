"""Settings: typed, with defaults, checked when set."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gpumod.domain.base import Frozen, Id, Text, is_id


def _address(text: str) -> str:
    if text not in ("127.0.0.1", "0.0.0.0"):  # noqa: S104  # a person asked for it; gpumod asks them on 127.0.0.1
        raise ValueError("must be 127.0.0.1, or 0.0.0.0, which opens every service to the network")
    return text


def device_list(text: str | None) -> tuple[str, ...]:
    """The GPUs that a setting like `0,2` or `GPU-5b4e...` names."""
    return tuple(part.strip() for part in (text or "").split(",")) if text else ()


def _devices(text: str | None) -> str | None:
    named = device_list(text)
    wrong = [part for part in named if not re.fullmatch(r"\d{1,4}|(GPU|MIG)-[0-9A-Za-z/-]+", part)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is neither an index (0) nor a UUID (GPU-...) of a GPU")
    if len(set(named)) < len(named):
        raise ValueError("it names a GPU twice")
    return ",".join(named) or None


def _user(text: str | None) -> str | None:
    if text and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}", text):
        raise ValueError("must be a user's name: letters, digits, _ . and -, at most 31, and no digit first")
    return text or None


LAST_MODE = "@last"
"""As `boot_mode`: the mode that was current when the machine went down."""


def _boot_mode(text: str | None) -> str | None:
    if text and text != LAST_MODE and not is_id(text):
        raise ValueError(f"must be the id of a mode, or {LAST_MODE} for the one before the machine went down")
    return text or None


class Settings(Frozen):
    """Every setting with its default. `gpumod settings list` shows them; docs/configuration.md explains them."""

    reserve_mb: Annotated[int, Field(ge=0, le=1_000_000, description="MiB of each GPU that no plan may use")] = 512
    ram_reserve_mb: Annotated[int, Field(ge=0, le=100_000_000, description="MiB of host RAM that no plan may use")] = (
        1024
    )
    gpu_probe: Annotated[Id | None, Field(description="which probe reads the GPUs; empty: the first available")] = None
    cuda_devices: Annotated[
        Text | None, AfterValidator(_devices), Field(description="GPUs that gpumod uses, by index or UUID; empty: all")
    ] = None
    lock_dir: Annotated[
        Text | None, Field(description="folder of the changer's lock of a real machine; empty: /run/lock/gpumod")
    ] = None
    supervisor: Annotated[Id, Field(description="what keeps processes alive where a service does not say")] = "process"
    user: Annotated[
        Text | None,
        AfterValidator(_user),
        Field(description="who units of root's home run as under systemd-system; empty: the home's owner"),
    ] = None
    sim_machine: Annotated[Text | None, Field(description="folder of the simulated machine of this home")] = None
    bin_path: Annotated[Text | None, Field(description="folder searched first for vllm, llama-server, uvicorn")] = None
    vllm_bin: Annotated[Text, Field(description="the vllm program")] = "vllm"
    llama_server_bin: Annotated[Text, Field(description="the llama-server program")] = "llama-server"
    models_dir: Annotated[Text | None, Field(description="$MODELS_DIR in path fields of presets")] = None
    hf_home: Annotated[Text | None, Field(description="$HF_HOME for services and in path fields")] = None
    bind_host: Annotated[
        Text, AfterValidator(_address), Field(description="address services bind to, 127.0.0.1 or 0.0.0.0")
    ] = "127.0.0.1"
    release_timeout_s: Annotated[
        float, Field(gt=0, le=3600, description="how long freed memory may take to come back")
    ] = 10.0
    driver_timeout_s: Annotated[
        float, Field(gt=0, le=86_400, description="how long a driver may take for a sleep, wake or unload")
    ] = 900.0
    min_free_disk_mb: Annotated[int, Field(ge=0, description="a change is refused below this much free disk")] = 50
    log_max_mb: Annotated[int, Field(ge=1, description="a service's log is rotated at this size")] = 16
    boot_mode: Annotated[
        Text | None,
        AfterValidator(_boot_mode),
        Field(description=f"what `gpumod watch` brings up after a boot: a mode, or {LAST_MODE}; empty: nothing"),
    ] = None
    watch_interval_s: Annotated[
        float, Field(ge=1, le=3600, description="how often `gpumod watch` looks whether the mode is whole")
    ] = 10.0
    idle_timeout_s: Annotated[
        float, Field(ge=0, le=31_536_000, description="idle time after which members that take turns sleep; 0: never")
    ] = 300.0
    health_interval_s: Annotated[
        float, Field(ge=1, le=3600, description="how often `gpumod watch` asks each service how it is")
    ] = 10.0
    health_failures: Annotated[
        int, Field(ge=1, le=100, description="so many bad answers in a row make a service unhealthy")
    ] = 3
    health_successes: Annotated[int, Field(ge=1, le=100, description="so many good ones make it healthy again")] = 2
    restart_budget: Annotated[
        int, Field(ge=0, le=100, description="restarts of one service by `gpumod watch` within restart_window_s")
    ] = 3
    restart_window_s: Annotated[
        float, Field(ge=1, le=2_592_000, description="the time for which restart_budget is meant")
    ] = 3600.0
    unit_restart: Annotated[
        Literal["no", "on-failure"], Field(description="whether systemd itself restarts a service that failed")
    ] = "no"
    end_with_unit: Annotated[
        Literal["refuse", "allow"],
        Field(description="start plain processes where they end with the systemd unit that gpumod itself runs in"),
    ] = "refuse"
    daemon_reload: Annotated[
        Literal["careful", "always"],
        Field(description="careful: the system manager rereads no units while containers have GPUs"),
    ] = "careful"
