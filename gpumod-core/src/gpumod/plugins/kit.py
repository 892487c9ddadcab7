"""What drivers share: typed options, environment and flag checks, Prometheus values, adaptive polling."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError

from gpumod.domain.errors import Failed
from gpumod.domain.secrets import hidden
from gpumod.domain.service import Service
from gpumod.domain.words import said
from gpumod.ports import Clock

T = TypeVar("T")
O = TypeVar("O", bound="Options")  # noqa: E741  # the options model

ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DENIED_ENV = frozenset({
    "PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONINSPECT", "BASH_ENV", "ENV", "IFS", "NOTIFY_SOCKET",
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
})  # fmt: skip
DENIED_ENV_PREFIXES = ("LD_", "GPUMOD_")
POLL_LEAST_S, POLL_MOST_S = 0.01, 0.05


def is_denied(variable: str) -> bool:
    """True for the name of an environment variable that changes what is run, or that gpumod itself sets."""
    return variable in DENIED_ENV or variable.startswith(DENIED_ENV_PREFIXES)


CONTAINER = "container"
"""The option that is not the driver's: how the service runs in a container, where one keeps it."""
UNTOLD = ("env", "environment", CONTAINER)
"""Options that may hold secrets: their values are not repeated in messages."""


class Options(BaseModel):
    """The base of a driver's options, read from `unit_vars`: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def parse_options(model: type[O], service: Service) -> O:
    """The service's `unit_vars`, without `container`, as `model`. Raises ValueError that says every problem, with
    close matches."""
    return parse_fields(model, service, {name: value for name, value in service.unit_vars.items() if name != CONTAINER})


def parse_fields(model: type[O], service: Service, fields: Mapping[str, Any]) -> O:
    """`fields` of `service` as `model`. Raises ValueError as :func:`parse_options`."""
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        problems = "; ".join(_problem(item, model) for item in error.errors(include_url=False))
    raise ValueError(f"service {service.id!r}: {problems}")


def _problem(item: Mapping[str, Any], model: type[Options]) -> str:
    name = ".".join(str(part) for part in item["loc"]) or "unit_vars"
    if item["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, model.model_fields, n=2)
        advice = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(model.model_fields))}"
        return f"unknown option {name!r} ({advice})"
    # The environment may hold secrets, so its values are not repeated; nor are those that are known by their names.
    untold = item["type"] == "missing" or (item["loc"][:1] and item["loc"][0] in UNTOLD)
    given = "" if untold else f" (got {hidden(item['input'], name)!r:.80})"
    return f"option {name!r}: {said(item)}{given}"


def _env(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        value = shlex.split(value)
    if isinstance(value, list | tuple):
        pairs = [str(item).partition("=") for item in value]
        if not all(middle for _, middle, _ in pairs):
            raise ValueError("must be NAME=VALUE")
        value = {name: text for name, _, text in pairs}
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping of names to texts")  # noqa: TRY004  # pydantic collects ValueError
    for name, text in value.items():
        if not isinstance(name, str) or not ENV_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an environment variable")
        if is_denied(name):
            raise ValueError(f"{name} may not be set here: it changes what is run, or gpumod sets it")
        if isinstance(text, bool) or not isinstance(text, str | int | float):
            raise ValueError(f"the value of {name} must be a text; put it in quotes")  # noqa: TRY004  # as above
    return {name: str(text) for name, text in value.items()}


def _words(value: Any) -> Any:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


Env = Annotated[Mapping[str, str], BeforeValidator(_env)]
"""Environment variables: a mapping, or NAME=VALUE words. Names that change what is run are refused."""

Args = Annotated[tuple[str, ...], BeforeValidator(_words)]
"""Arguments: a list, or a text split as a shell would split it (nothing is expanded)."""

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./][A-Za-z0-9_./:+@,=-]*$")]
"""One value of a flag; it cannot be taken for a flag."""


def refuse_flags(
    args: Sequence[str], denied: Sequence[str], *, abbreviations: bool = False, whole: Collection[str] = ()
) -> None:
    """Raise ValueError when `args` hold a flag of `denied`: `--flag`, `--no-flag`, `--flag=value`, `_` for `-`.

    `abbreviations`: the runtime takes any unambiguous beginning of a flag for the flag, `-t` for `-tp` too, and a value
    behind a flag of one letter (`-qawq`), as Python's argparse does. `whole` are flags that begin no others. A denied
    name that ends in `*` stands for all that begin so.
    """
    for arg in args:
        if not arg.startswith("-"):
            continue
        flag = arg.partition("=")[0].replace("_", "-")
        if flag not in whole and any(_is_form_of(flag, name, abbreviations=abbreviations) for name in denied):
            raise ValueError(f"extra_args may not hold {flag}: gpumod sets it, or it opens the service to others")
        if flag == "--":
            raise ValueError("extra_args may not hold a bare --")


def _is_form_of(flag: str, name: str, *, abbreviations: bool) -> bool:
    stem = name.rstrip("*")
    for form in (stem, f"--no-{stem[2:]}") if stem.startswith("--") else (stem,):
        if flag == form or (name.endswith("*") and flag.startswith(form)):
            return True
        if abbreviations and (_begins(flag, form) or (_is_one_letter(form) and flag.startswith(form))):
            return True
    return False


def _begins(flag: str, form: str) -> bool:
    return flag not in ("-", "--") and form.startswith(flag)


def _is_one_letter(form: str) -> bool:
    return len(form) == 2 and form[1] != "-"


def metric_sum(text: str, *names: str) -> float | None:
    """The sum of all samples of the named metrics in Prometheus text; None when there is none."""
    total: float | None = None
    for line in text.splitlines():
        match = re.match(r"([A-Za-z_:][\w:]*)(?:\{.*\})?\s+(\S+)", line)
        if match is None or match[1] not in names:
            continue
        try:
            value = float(match[2])
        except ValueError:
            continue
        if math.isfinite(value):
            total = value + (total or 0.0)
    return total


def busy(service: Service, why: str) -> Failed:
    """Of a service that does not fall asleep since its requests do not end. It goes on; a time-out would end it."""
    return Failed(
        "busy",
        f"{service.id} did not fall asleep",
        why=why,
        hint="try again when it is idle, or set the option sleep_timeout_s to a longer time",
        service=service.id,
    )


async def poll(clock: Clock, ask: Callable[[], Awaitable[T | None]], timeout_s: float) -> T | None:
    """Ask until the answer is not None; None when time is out.

    What is quickly answered is asked every 10 ms at first. The longer it takes in all, and the dearer one question is,
    the rarer it is asked, but never more than 50 ms apart.
    """
    began_s = clock.monotonic()
    while True:
        asked_s = clock.monotonic()
        if (answer := await ask()) is not None:
            return answer
        now_s = clock.monotonic()
        left_s = began_s + timeout_s - now_s
        if left_s <= 0:
            return None
        pause_s = max(POLL_LEAST_S, 4 * (now_s - asked_s), (now_s - began_s) / 100)
        await clock.sleep(min(pause_s, POLL_MOST_S, left_s))
