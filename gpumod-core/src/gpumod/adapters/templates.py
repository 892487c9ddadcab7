"""Templates: Jinja2 in a sandbox, and filters that put any text into a systemd unit as itself.

A template is looked for in the user's folder first, then where the service says, then in the folders that plugins
offer. Nothing is escaped by itself: unit files need a different escape at each place, so templates name a filter.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import os
import re
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import Any

import jinja2
from jinja2.bccache import Bucket
from jinja2.loaders import split_template_path
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gpumod.adapters.files import open_plain
from gpumod.domain.base import has_control_characters
from gpumod.domain.errors import Failed, GpumodError, UnknownName, UsageError

BASE = "unit.service.j2"
"""The template that those of drivers extend, and that services without one are made of."""
LARGEST = 1_000_000
"""So many letters, items or bits may a product or a power in a template have: no unit needs as many."""
OWN_FOLDER = Path(__file__).parent / "systemd" / "templates"
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RISKY_ENV = frozenset({
    "BASH_ENV", "ENV", "IFS", "INVOCATION_ID", "LD_AUDIT", "LD_LIBRARY_PATH", "LD_PRELOAD", "LISTEN_FDNAMES",
    "LISTEN_FDS", "LISTEN_PID", "MAINPID", "MANAGERPID", "NOTIFY_SOCKET", "PATH", "PYTHONHOME", "PYTHONPATH",
    "PYTHONSTARTUP", "WATCHDOG_PID", "WATCHDOG_USEC",
})  # fmt: skip
"""Variables that decide what code a process runs, or that belong to systemd's own protocol."""


def _text(value: object, place: str) -> str:
    """`value` as text. Raises UsageError when it holds what would end or change the line that it stands on."""
    text = str(value)
    if has_control_characters(text):
        raise UsageError(
            "bad-unit-text",
            f"{place} cannot hold {text[:80]!r}",
            why="it contains a newline or another control character, which could become a line of its own",
            hint="remove the control characters from the service's name, options or paths",
        )
    return text


def systemd_word(value: object) -> str:
    r"""One word of an Exec line, in double quotes: blanks, quotes, `\`, `%`, `$` and `;` survive as themselves.

    Not for the program itself: that is an absolute path that gpumod found, never a user's text. Raises UsageError
    (`bad-unit-text`) on control characters.
    """
    text = _text(value, "a word of a command line").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text.replace("%", "%%").replace("$", "$$")}"'


def systemd_env(name: object, value: object, wanted: bool = False) -> str:
    """One quoted NAME=VALUE for an Environment= line; `$` is not special there.

    In a template: `Environment={{ name | systemd_env(value) }}`. Raises UsageError on control characters
    (`bad-unit-text`), on what is no variable's name, and on :data:`RISKY_ENV` unless `wanted` (`bad-variable`).
    """
    variable = str(name)
    if not ENV_NAME.fullmatch(variable):
        raise UsageError(
            "bad-variable",
            f"{variable[:80]!r} cannot name an environment variable",
            why="a name has letters, digits and underscores only, and does not begin with a digit",
        )
    if variable in RISKY_ENV and not wanted:
        raise UsageError(
            "bad-variable",
            f"the environment variable {variable} is not set in a unit",
            why="it decides what code the service runs, or belongs to systemd",
            hint="give the program by its absolute path, or write the variable into a template of your own",
        )
    text = _text(value, f"the variable {variable}").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{variable}={text.replace("%", "%%")}"'


def systemd_text(value: object) -> str:
    r"""A line of text, as in Description=, where only `%` is special and quotes are literal.

    A `\` at the very end is doubled, since a single one would swallow the next line. Raises UsageError
    (`bad-unit-text`) on control characters.
    """
    text = _text(value, "a line of text").replace("%", "%%")
    ends_odd = (len(text) - len(text.rstrip("\\"))) % 2
    return text + "\\" * ends_odd


def systemd_path(value: object) -> str:
    """An absolute path that ends its line, as in WorkingDirectory= (nothing but `%` is special there).

    Raises UsageError (`bad-unit-text`) for what systemd would not take as it is.
    """
    text = _text(value, "a path")
    if not text.startswith("/") or text.endswith((" ", "\\")) or ".." in text.split("/"):
        raise UsageError(
            "bad-unit-text",
            f"a unit cannot name the path {text[:200]!r}",
            why="a path in a unit is absolute, without '..', and ends with neither a blank nor a backslash",
        )
    return text.replace("%", "%%")


def systemd_program(value: object) -> str:
    """The program of an Exec line: the absolute path that gpumod found, as a word; a `$` in it is not doubled there.

    Raises UsageError (`bad-unit-text`) as :func:`systemd_path` does, and for quotes and backslashes.
    """
    systemd_path(value)
    if set("\"'\\") & set(str(value)):
        raise UsageError(
            "bad-unit-text",
            f"a unit cannot start the program {str(value)[:200]!r}",
            why="systemd takes none with a quote or a backslash in its path",
            hint="rename it or its folder, or start it by a link of another name",
        )
    return systemd_word(value).replace("$$", "$")


FILTERS = (systemd_word, systemd_env, systemd_text, systemd_path, systemd_program)
"""What a template has beside Jinja's own filters."""


class _Loader(jinja2.FileSystemLoader):
    """Files of folders. With `roots_only` those in the first one, the user's, must be root's own: which is asked of
    what was opened, since their folder may be another user's, who could put another file there at any moment."""

    def __init__(self, folders: Sequence[Path], *, roots_only: bool) -> None:
        super().__init__(folders)
        self._roots_only = roots_only

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        pieces = split_template_path(template)  # raises TemplateNotFound for what would lead out of the folders
        for number, folder in enumerate(self.searchpath):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path = Path(folder, *pieces)
                return self.read(path, offered=number > 0), str(path), lambda: False
        raise jinja2.TemplateNotFound(template)

    def read(self, path: Path, *, offered: bool = False) -> str:
        """The text of a template. Raises OSError, UnicodeDecodeError, and Failed `foreign-template`."""
        is_checked = self._roots_only and not offered
        try:
            file = open_plain(path, follow=not is_checked)
        except OSError as error:
            if error.errno == errno.ELOOP and is_checked:
                raise _foreign(path, "it is a link, which may lead anywhere tomorrow") from error
            raise
        with io.TextIOWrapper(file, encoding="utf-8") as text:
            status = os.fstat(text.fileno())
            if is_checked and status.st_uid != 0:
                raise _foreign(path, "it belongs to another user, who could make it a unit with root's rights")
            if is_checked and status.st_nlink > 1:
                raise _foreign(path, "it has another name somewhere, where it may have been meant for something else")
            return text.read()


def _foreign(path: Path, why: str) -> Failed:
    hint = f"read it; then put a file of root's own there: chown root {path}"
    return Failed("foreign-template", f"root makes no unit of the template {path}", why=why, hint=hint)


class _Compiled(jinja2.BytecodeCache):
    """What was compiled, by its text: a plan renders the same few templates for each of its services."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Any] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._kept.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._kept[bucket.key, bucket.checksum] = bucket.code


class _Sandbox(ImmutableSandboxedEnvironment):
    """Where templates are rendered. A product or a power of some billions, a slip of the pen, takes no memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if _size(operator, left, right) > LARGEST:
            raise OverflowError(f"what {operator} makes here has more than {LARGEST} letters, items or bits")
        return super().call_binop(context, operator, left, right)


def _size(operator: str, left: object, right: object) -> int:
    """How many letters, items or bits `left` * `right` or `left` ** `right` has, at most; 0 for what cannot grow."""
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
    for row, times in ((left, right), (right, left)):
        if isinstance(row, Sized) and isinstance(times, int):
            return len(row) * times
    return 0


class Templates:
    """Renders templates. `home` is gpumod's home folder, `folders` those that plugins offer, first found first; what
    all of them build on (:data:`BASE`) comes last. With `roots_only` templates of other users are refused."""

    def __init__(self, home: Path, folders: Sequence[Path] = (), *, roots_only: bool = False) -> None:
        self.user_folder = home / "templates"
        self.folders = (self.user_folder, *folders, OWN_FOLDER)
        self._loader = _Loader(self.folders, roots_only=roots_only)
        self._environment = _Sandbox(
            loader=self._loader,
            undefined=jinja2.StrictUndefined,
            autoescape=False,  # units and INI files are not HTML; each place names its filter
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
            cache_size=0,  # a file that the user adds while we run wins at once
            bytecode_cache=_Compiled(),
        )
        for word in FILTERS:
            self._environment.filters[word.__name__] = word

    def render(self, name: str, /, *, own: str | None = None, **variables: Any) -> str:
        """The template `name` with `variables`.

        `own` is the service's `unit_template`: another name to be looked for instead, or the absolute path of a
        file, over which only `name` in the user's folder wins. Raises UnknownName (`unknown-template`), and Failed
        (`bad-template`) for wrong syntax, a variable that is not there, what the sandbox forbids, or a product
        or a power beyond :data:`LARGEST`. Errors of the filters pass.
        """
        try:
            return self._template(name, own).render(variables)
        except GpumodError:
            raise
        except jinja2.TemplateNotFound as exc:
            raise self.not_found(str(exc.name or exc)) from exc
        except jinja2.TemplateSyntaxError as exc:
            raise _bad(own or name, f"{exc.message} (line {exc.lineno})") from exc
        except Exception as exc:  # whatever an expression in a user's template raises
            raise _bad(own or name, f"{type(exc).__name__}: {exc}") from exc

    def check(self, name: str, text: str) -> None:
        """Raise Failed (`bad-template`) for a text that is no template."""
        try:
            self._environment.parse(text)
        except jinja2.TemplateSyntaxError as exc:
            raise _bad(name, f"{exc.message} (line {exc.lineno})") from exc

    def names(self) -> tuple[str, ...]:
        """Every template that can be rendered, sorted."""
        return tuple(self._environment.list_templates())

    def _template(self, name: str, own: str | None) -> jinja2.Template:
        if own is None or not own.startswith("/"):
            return self._environment.get_template(own or name)
        if (self.user_folder / name).is_file():
            return self._environment.get_template(name)
        try:
            return self._environment.from_string(self._loader.read(Path(own)))
        except (OSError, UnicodeDecodeError) as exc:
            raise _bad(own, str(exc)) from exc

    def not_found(self, name: str) -> UnknownName:
        known = self.names()
        stem = name.partition(".")[0]  # the rest is the same in all of them
        close = [k for k in known if difflib.get_close_matches(stem, [k.partition(".")[0]])]
        return UnknownName(
            "unknown-template",
            f"there is no template {name!r}",
            why=f"looked in {', '.join(map(str, self.folders))}",
            hint=f"did you mean {' or '.join(close)}?"
            if close
            else f"there are {', '.join(known)}; or put it into {self.user_folder}",
        )


def _bad(name: str, why: str) -> Failed:
    hint = (
        f"mend it; `gpumod template show {BASE}` is what all units are made of, docs/templates.md lists its variables"
    )
    return Failed("bad-template", f"the template {name!r} cannot be rendered", why=why, hint=hint)
