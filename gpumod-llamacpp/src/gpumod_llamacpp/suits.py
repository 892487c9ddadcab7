"""Whether the llama-server that is there takes what a service says, asked before anything is stopped.

One key that it does not know, in the section of one member, would keep a whole router from starting. llama-server reads
its command line from left to right: with `--version` at the end it ends there, what comes before was understood, and
nothing was loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from gpumod.api import Answer, Launch, Service
from gpumod_llamacpp.options import llamacpp_options

VERSION = re.compile(r"^version: (.+)$", re.MULTILINE)
REFUSED = (
    re.compile(r"invalid argument: (?P<flag>\S+)"),
    re.compile(r'error while handling argument "(?P<flag>[^"]+)": (?:error: )?(?P<why>.*)'),
)
NAMES_DEVICES = frozenset({
    "--device", "-dev", "--device-draft", "-devd", "--spec-draft-device", "--override-tensor", "-ot",
    "--override-tensor-draft", "-otd", "--spec-draft-override-tensor", "--mmproj-device", "-mmdev",
})  # fmt: skip
"""Not tried: no GPU is in sight of a question."""


def questions(service: Service, launch: Launch, model_words: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The program's version, and a trial of the launch's words; for a member of its `model_words` and extra ones."""
    program = launch.argv[0]
    words = launch.argv[1:]
    if service.host is not None:
        words = (*model_words, *_spread(llamacpp_options(service).extra_args))
    return (program, "--version"), (program, *_without_devices(words), "--version")


def refuse_what_it_does_not_take(service: Service, answers: Sequence[Answer]) -> None:
    """Raise ValueError with what the program does not take. One that fails for another reason says so when started."""
    version, trial = answers
    if not trial.exit_code:  # it took all, or gave no answer in time
        return
    for pattern in REFUSED:
        if match := pattern.search(trial.output):
            told = VERSION.search(version.output)
            which = f"llama-server (version {told[1].strip()})" if told else "llama-server"
            why = f": {match['why'].strip()}" if "why" in pattern.groupindex else ""
            raise ValueError(f"service {service.id!r}: {which} does not take {match['flag']}{why}")


def _spread(args: Iterable[str]) -> Iterator[str]:
    """`--flag=value` as two words: so it may stand in a router's file, but not in a command line."""
    for arg in args:
        flag, equals, value = arg.partition("=")
        yield from (flag, value) if equals and arg.startswith("-") else (arg,)


def _without_devices(words: Iterable[str]) -> list[str]:
    kept: list[str] = []
    skips = False
    for word in words:
        if word not in NAMES_DEVICES and not skips:
            kept.append(word)
        skips = word in NAMES_DEVICES and not skips
    return kept
