"""What a driver asks its program before it is started, and who puts the questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from gpumod.domain.base import Frozen
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports.launch import Launch


class Answer(Frozen):
    """What a program wrote (the beginning of it, both streams as they came). `exit_code` is negative for a signal, None
    where it did not end in time."""

    exit_code: int | None
    output: str = ""


@runtime_checkable
class SuitsItsProgram(Protocol):
    """A driver whose launch depends on the version of its program. Both methods are pure.

    `launch` is for the newest version that the driver knows. `questions` are command lines that end at once and change
    nothing (`vllm --version`). `suited` gets the answers in their order, and returns the launch as this program takes
    it; it raises ValueError with what the program does not take or is too old for. Where there is nobody to ask (no
    such program, a container's image, another user's program for root), or none of the questions was answered, the
    launch stays as it is.

    For a member of a host `launch` is its host's, and what is returned counts for nothing: the questions are put
    before the host loads it, so that a member that it would not take is refused.
    """

    def questions(self, service: Service, launch: Launch, settings: Settings) -> Sequence[Sequence[str]]: ...
    def suited(self, service: Service, launch: Launch, answers: Sequence[Answer]) -> Launch: ...


@runtime_checkable
class AsksPrograms(Protocol):
    """A supervisor whose programs are on this machine. `ask` runs `question` in the environment of `launch`, with no
    GPU in sight, and within bounds of time and output; None where it cannot be run. The same is not asked twice of the
    same program."""

    async def ask(self, service: str, launch: Launch, question: Sequence[str]) -> Answer | None: ...
