"""What goes into each operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from gpumod.domain.base import Frozen, Id, Text
from gpumod.domain.errors import UsageError
from gpumod.domain.mode import ModeMember, StartOrder, Want
from gpumod.domain.service import IdleSeconds
from gpumod.domain.words import NamedTwice


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    if twice:
        raise NamedTwice(f"names {', '.join(twice)} twice")
    return names


def _members_once(members: tuple[ModeMember, ...]) -> tuple[ModeMember, ...]:
    _once(tuple(member.service for member in members))
    return members


Names = Annotated[tuple[Id, ...], AfterValidator(_once)]
"""Names of services, each of them once."""


class NoParams(Frozen):
    """Nothing."""


class InitParams(Frozen):
    """`sim` makes a simulated machine of these cards; `sim_dir` says where (default: inside the home), and joins
    the machine that is there already. Of what is found on a real machine the proposals in `take` (their ids, or what
    they are) become services, all with `take_all`."""

    sim: tuple[tuple[Text, Annotated[int, Field(ge=256, le=10_000_000)]], ...] = ()
    sim_dir: str | None = None
    take: tuple[str, ...] = ()
    take_all: bool = False


class ModeRef(Frozen):
    mode: Id


class ModeDelete(Frozen):
    """Any text: a row that was edited by hand must be deletable under the name that it has."""

    mode: str


class ModeWrite(Frozen):
    """`create` and `edit`. None leaves a field as it is (edit).

    `members` replaces all of them; then `remove` takes services away, `add` adds some, and `want`, `start_order`
    and `idle_timeout` (seconds) say what is wanted of single members. :meth:`members_after` puts that together.
    """

    id: Id
    members: Annotated[tuple[ModeMember, ...], AfterValidator(_members_once)] | None = None
    name: Text | None = None
    description: Text | None = None
    add: Names = ()
    remove: Names = ()
    want: Mapping[Id, Want] = {}
    start_order: Mapping[Id, StartOrder] = {}
    idle_timeout: Mapping[Id, IdleSeconds] = {}

    def members_after(self, now: tuple[ModeMember, ...] = ()) -> tuple[ModeMember, ...]:
        """The members that a mode which has `now` gets.

        Raises UsageError `not-a-member` when something is wanted of, or taken from, a service that is none.
        """
        members = {member.service: member for member in (now if self.members is None else self.members)}
        strangers = [i for i in self.remove if i not in members]
        for service in self.remove:
            members.pop(service, None)
        for service in self.add:
            members.setdefault(service, ModeMember(service=service))
        strangers += [i for i in (*self.want, *self.start_order, *self.idle_timeout) if i not in members]
        if strangers:
            named = ", ".join(dict.fromkeys(strangers))
            hint = f"its members are {', '.join(members)}" if members else "it has no members"
            raise UsageError("not-a-member", f"mode {self.id!r} has no member {named}", hint=hint)
        for service, member in members.items():
            members[service] = ModeMember(
                service=service,
                want=self.want.get(service, member.want),
                start_order=self.start_order.get(service, member.start_order),
                idle_timeout=self.idle_timeout.get(service, member.idle_timeout),
            )
        return tuple(members.values())


class SwitchParams(Frozen):
    """`mode` is an id, or "-" for the previous one, with the alternative of it that had been taken. `alternative` is
    an id from a simulation that did not fit.
    `timeout_s` bounds each start. What depends on something that stops is stopped too."""

    mode: str
    dry_run: bool = False
    alternative: str | None = None
    no_rollback: bool = False
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    force: bool = False


class ServiceRef(Frozen):
    service: Id


class UnitParams(ServiceRef):
    """`write`: put it where it belongs, if it differs, and have systemd read it. Nothing is started."""

    write: bool = False


class TemplateRef(Frozen):
    template: Text


class TemplateRender(Frozen):
    template: Text
    service: Id


MAX_TEMPLATE = 256 * 1024
"""So many characters a template may have."""


class TemplateEdit(Frozen):
    """`text` goes into the user's folder; None takes the user's own away."""

    template: Text
    text: Annotated[str, Field(max_length=MAX_TEMPLATE)] | None = None


class SecretRef(Frozen):
    """`name` is that of an environment variable."""

    service: Id
    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]


class SecretWrite(SecretRef):
    value: SecretStr


class ServiceWrite(Frozen):
    """`add` and `edit`: `fields` are fields of a Service by name, `unit_vars` single options to set, `unset` options
    or fields to take away. The result is validated whole, through the driver too."""

    id: Id
    fields: Mapping[str, Any] = {}
    unit_vars: Mapping[str, Any] = {}
    unset: tuple[str, ...] = ()


class ServiceRemove(Frozen):
    """Removing a service that runs is refused unless `stop`; one that modes name unless `cascade`. `service` may be
    any text: a row that was edited by hand must be removable under the name that it has."""

    service: str
    stop: bool = False
    cascade: bool = False


class ServiceChange(Frozen):
    """start, stop, restart, sleep, wake."""

    service: Id
    dry_run: bool = False
    no_rollback: bool = False
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    force: bool = False
    cascade: bool = False


class LogsParams(Frozen):
    service: Id
    lines: Annotated[int, Field(ge=1, le=100_000)] = 50


class SimulateParams(Frozen):
    """Exactly one base: `mode`, `services`, or (with neither) what serves now. `gpu_total_mb` replaces the machine
    by one card of that size, with nothing on it."""

    mode: Id | None = None
    services: Names | None = None
    add: Names = ()
    remove: Names = ()
    context: Mapping[Id, Annotated[int, Field(ge=1, le=100_000_000)]] = {}
    gpu_total_mb: Annotated[int, Field(ge=1, le=10_000_000)] | None = None


class PresetRef(Frozen):
    preset: Id
    kind: Literal["service", "mode"] | None = None


class PresetLoad(Frozen):
    """Without ids: all. `update` overwrites fields that the user edited too. `folder`: load from there instead."""

    ids: tuple[Id, ...] = ()
    update: bool = False
    folder: str | None = None


class PresetValidate(Frozen):
    """Files or folders; none: every folder that is offered."""

    paths: tuple[str, ...] = ()


class ListParams(Frozen):
    limit: Annotated[int, Field(ge=1, le=10_000)] = 20


class RunRef(Frozen):
    """A run by id, an unambiguous beginning of it, or "last". `follow` waits until it has ended."""

    run: str
    follow: bool = False


class RecoverParams(Frozen):
    """`resume` goes on to the run's target, `rollback` back to what was there; None only tells what is open."""

    way: Literal["resume", "rollback"] | None = None
    force: bool = False


class SettingRef(Frozen):
    key: str


class SettingWrite(Frozen):
    """`value` None restores the default."""

    key: str
    value: str | None = None


MAX_BOX = 4 * 1024 * 1024
"""So many characters a box may have."""


class BoxDocument(Frozen):
    """A box as YAML, and where it is from (for messages). `prune`: what it does not name is removed."""

    text: Annotated[str, Field(max_length=MAX_BOX)]
    source: Text = "the document"
    prune: bool = False


class DiffParams(BoxDocument):
    """What applying it would change."""


class ApplyParams(BoxDocument):
    """`now` also restarts what drifted, by one plan, and stops what is pruned; the others are options of a change."""

    now: bool = False
    dry_run: bool = False
    no_rollback: bool = False
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    force: bool = False


class FreeParams(Frozen):
    """Room of `mb` MiB on `gpu` (None: where it is cheapest) for `what`, at most for `for_s` seconds.

    `pid` is the process with which the lease ends (None: when it is given back). With `back` what was put away is put
    back: for `lease`, and for every lease that is over or that no process holds.
    """

    mb: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    gpu: Annotated[int, Field(ge=0, le=255)] | None = None
    what: Text = ""
    for_s: Annotated[float, Field(gt=0, le=31_536_000)] | None = None
    pid: Annotated[int, Field(ge=1)] | None = None
    back: bool = False
    lease: str | None = None
    dry_run: bool = False
    no_rollback: bool = False
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    force: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> FreeParams:
        if (self.mb is None) is not self.back:
            raise ValueError("say how many MiB, or back")
        return self
