"""What an older vLLM does not take, and how it wants it said instead. The newest that is known is the rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from gpumod.api import Answer, Launch, Service

Version = tuple[int, int, int]
_VERSION = re.compile(r"(?<![\d.])(\d+)\.(\d+)(?:\.(\d+))?")
SERVES_SINCE: Version = (0, 5, 0)
"""No older one has `vllm serve`. One that says so was built from sources without their tags, and knows no better."""
TASKS_UNTIL: Version = (0, 10, 1)
"""From this version on `--runner` and `--convert` say what `--task` said before (vLLM's pull request 21470)."""


class Need(NamedTuple):
    """`words` in a command line need `since`; `what` it is, and `instead` what to do."""

    words: tuple[str, ...]
    since: Version
    what: str
    instead: str


NEEDS = (
    # vLLM's pull requests 21489 and 29431
    Need(("--kv-cache-memory-bytes",), (0, 11, 0), "kv_cache_memory_bytes", "use gpu_memory_utilization"),
    Need(("--max-model-len", "auto"), (0, 14, 0), "max_model_len auto", "set a number of tokens"),
)
L2_SINCE: Version = (0, 24, 0)
"""Since then a request that waits for a wake from level 2, which takes several steps, is served after the last of them;
before it ran into memory that was not there yet, and the engine died (vLLM's issue 44395, pull request 44483)."""

UUIDS_SINCE: Version = (0, 24, 0)
"""Since then GPUs may be named by UUID; before it takes `int()` of each word of CUDA_VISIBLE_DEVICES, and ends (vLLM's
issues 13815, 32569 and 41848, pull request 45026)."""


def version_in(text: str) -> Version | None:
    """The version in what `vllm --version` writes (the last line that has one); a development build's is its base, and
    None where it has none (`0.1.dev7557+g977180c`)."""
    for line in reversed(text.splitlines()):
        if match := _VERSION.search(line):
            found = int(match[1]), int(match[2]), int(match[3] or 0)
            return found if found >= SERVES_SINCE else None
    return None


def suited(service: Service, launch: Launch, answers: Sequence[Answer]) -> Launch:
    """`launch` for the vLLM that answered; as it is where that did not tell. Raises ValueError for one too old."""
    version = version_in(answers[0].output) if answers and answers[0].exit_code == 0 else None
    if version is None:
        return launch
    for need in NEEDS:
        if version < need.since and _has(launch.argv, need.words):
            raise too_old(service, version, need.what, need.since, need.instead)
    if service.sleep_mode == "l2" and version < L2_SINCE:
        raise too_old(service, version, "sleep_mode l2", L2_SINCE, "use l1")
    argv = _with_task(launch.argv) if version < TASKS_UNTIL else launch.argv
    return launch.model_copy(update={"argv": argv, "gpus_by_number": version < UUIDS_SINCE})


def too_old(service: Service, version: Version, what: str, since: Version, instead: str) -> ValueError:
    return ValueError(
        f"service {service.id!r}: {what} needs vLLM {_text(since)} or newer, and its vllm is {_text(version)}: "
        f"{instead}, or install a newer one (option vllm_bin says which is meant)"
    )


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def _has(argv: Sequence[str], words: tuple[str, ...]) -> bool:
    return any(tuple(argv[n : n + len(words)]) == words for n in range(len(argv)))


def _with_task(argv: Sequence[str]) -> tuple[str, ...]:
    """`--runner` and `--convert` as one `--task`."""
    left, said = list(argv), {"--runner": "", "--convert": ""}
    for flag in said:
        if flag in left:
            at = left.index(flag)
            said[flag] = left[at + 1]
            del left[at : at + 2]
    convert = said["--convert"] if said["--convert"] in ("embed", "classify") else ""
    task = convert or {"pooling": "embed", "generate": "generate"}.get(said["--runner"], "")
    return (*left, "--task", task) if task else tuple(left)
