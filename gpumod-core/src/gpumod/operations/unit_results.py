"""What comes out of the operations on units, templates and secrets."""

from __future__ import annotations

from gpumod.domain.base import Frozen


class UnitResult(Frozen):
    """A unit as it would be written now (`text`), and its difference to what is there, as a unified diff.

    `there`: a file of ours is there; `edited`: by hand since; `written`: it was written just now.
    """

    service: str
    supervisor: str
    unit: str
    path: str
    template: str
    text: str
    there: bool
    edited: bool = False
    difference: str = ""
    written: bool = False


class TemplateRow(Frozen):
    """A template: whose it is (`yours` or a plugin's name), where, and what it hides of the same name."""

    name: str
    source: str
    path: str
    hides: tuple[str, ...] = ()


class TemplateListResult(Frozen):
    templates: tuple[TemplateRow, ...]
    folder: str


class TemplateResult(Frozen):
    """A template's text. `changed`: whether it was written, or taken back, just now (None: it is shown); `services`:
    which are made of it."""

    name: str
    source: str
    path: str
    text: str
    services: tuple[str, ...] = ()
    changed: bool | None = None


class SecretsResult(Frozen):
    """Names of a service's secrets, never their values. `apply`: what brings a change to a service that is up."""

    service: str
    names: tuple[str, ...]
    apply: str = ""
