"""Templates as files: whose they are, which of a name wins, and those of the user's own folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpumod.adapters.files import ensure_private_dir, remove_file, write_atomic
from gpumod.adapters.templates import OWN_FOLDER, Templates
from gpumod.domain.base import is_id
from gpumod.domain.errors import Failed

YOURS, CORE = "yours", "gpumod"


class TemplateShelf:
    """Implements :class:`gpumod.operations.ports.TemplateShelf`. `offered` are folders by the name of their offer."""

    def __init__(self, home: Path, offered: Sequence[tuple[str, Path]]) -> None:
        self.user_folder = home / "templates"
        self._folders = ((YOURS, self.user_folder), *offered, (CORE, OWN_FOLDER))
        self._templates = Templates(home, [folder for _, folder in offered])

    def names(self) -> tuple[str, ...]:
        return self._templates.names()

    def places(self, name: str) -> tuple[tuple[str, Path], ...]:
        """Where templates of this name are, the one that wins first. Raises UnknownName (`unknown-template`)."""
        if name not in self.names():
            raise self._templates.not_found(name)
        found = ((source, folder / name) for source, folder in self._folders)
        return tuple((source, path) for source, path in found if path.is_file())

    def text(self, name: str) -> str:
        """The text of the one that wins. Raises Failed (`bad-template`) for one that cannot be read."""
        path = self.places(name)[0][1]
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Failed("bad-template", f"the template {path} cannot be read", why=str(error)) from error

    def write(self, name: str, text: str) -> bool:
        """Put a template into the user's folder; False where the one that wins says the same. Raises Failed
        (`bad-template`)."""
        self._templates.check(name, text)
        path = self.user_folder / name
        if name in self.names() and self.places(name)[0][1].read_bytes() == text.encode():
            return False
        try:
            ensure_private_dir(self.user_folder)
            write_atomic(path, text)
        except OSError as error:
            raise Failed("cannot-write", f"{path} cannot be written", why=error.strerror or str(error)) from error
        return True

    def remove(self, name: str) -> bool:
        """Take the user's own away; False where there is none."""
        path = self.user_folder / name
        if not is_id(name) or not path.is_file():
            return False
        remove_file(path)
        return True
