"""The options that define a service: the fields of a Service, in the words of the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from gpumod.cli.complete import SERVICES
from gpumod.cli.inputs import gpu_indices, key_values

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--driver", metavar="D", help="The runtime: vllm, llamacpp, fastapi ..."),
    click.option("--port", type=int, metavar="N", help="The port that it serves."),
    click.option("--vram-mb", type=int, metavar="MB", help="MiB that it takes awake."),
    click.option("--name", help="A title."),
    click.option("--model-id", metavar="ID", help="The model's name on a hub."),
    click.option("--model-path", metavar="PATH", help="The model's file or folder."),
    click.option("--context-size", type=int, metavar="TOKENS", help="Tokens of context."),
    click.option("--kv-cache-per-1k", type=float, metavar="MB", help="MiB that 1000 tokens of context take."),
    click.option(
        "--depends-on", multiple=True, metavar="S", shell_complete=SERVICES,
        help="A service that must be up first; may be given again.",
    ),
    click.option(
        "--sleep-mode", metavar="LEVEL",
        help="How it sleeps: l1, l2, router, http, or none: by being stopped (the default).",
    ),
    click.option("--idle-timeout", type=float, metavar="S", help="Seconds without use until it sleeps (0: never)."),
    click.option("--asleep-mb", type=int, metavar="MB", help="MiB that it keeps asleep."),
    click.option(
        "--start-peak-mb", type=int, metavar="MB",
        help="MiB that it takes at most while it starts (default: --vram-mb).",
    ),
    click.option(
        "--startup-timeout",
        type=float,
        metavar="S",
        help="Seconds that a start may take, without those in which it reads or fetches its model (default 600).",
    ),
    click.option(
        "--health-endpoint", metavar="PATH",
        help="The path that answers 200 when it is ready (default /health).",
    ),
    click.option(
        "--role", metavar="R",
        help="What it does: a smaller service of the same role may be proposed in its place.",
    ),
    click.option(
        "--gpus", metavar="any|0,1",
        help="The GPUs that it spans, or any: the first where it fits (the default).",
    ),
    click.option(
        "--host-service", "host", metavar="S", shell_complete=SERVICES,
        help="The service in whose process it lives, as a llama.cpp router.",
    ),
    click.option("--run-with", metavar="NAME", help="What keeps its process alive, if not the setting `supervisor`."),
    click.option("--unit-template", metavar="NAME", help="Its own template of a systemd unit: name or path."),
    click.option("--pinned/--not-pinned", default=None, help="Keep it running when a mode does not name it."),
    click.option(
        "--set", "sets", multiple=True, metavar="KEY=VALUE",
        help="An option of the driver; may be given again. "
        "VALUE is JSON where it is valid JSON (8, true, [\"a\"]), else text.",
    ),
)  # fmt: skip


def service_options(function: F) -> F:
    """Every field of a service as an option."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def fields_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Split the options into `fields` of the service and `unit_vars` (`--set`)."""
    fields = {key: value for key, value in options.items() if value is not None and value != () and key != "sets"}
    if "gpus" in fields:
        fields["gpus"] = gpu_indices(fields["gpus"])
    return {"fields": fields, "unit_vars": key_values(options["sets"])}
