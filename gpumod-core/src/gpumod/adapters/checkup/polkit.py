"""polkit's rules, as far as this user may read them."""

from __future__ import annotations

from pathlib import Path

from gpumod.ports.checkup import PolkitFacts, PolkitRule

FOLDERS = (
    "etc/polkit-1/rules.d",
    "run/polkit-1/rules.d",
    "usr/local/share/polkit-1/rules.d",
    "usr/share/polkit-1/rules.d",
)
ACTION = "org.freedesktop.systemd1.manage-units"


def facts(root: Path) -> PolkitFacts:
    """Rules that speak of :data:`ACTION`, and the folders in which there may be more."""
    rules: list[PolkitRule] = []
    hidden: list[str] = []
    for folder in (root / name for name in FOLDERS):
        try:
            files = sorted(file for file in folder.iterdir() if file.suffix == ".rules")
        except FileNotFoundError:
            continue
        except OSError:
            hidden.append(str(folder))
            continue
        for file in files:
            try:
                text = file.read_text("utf-8", "replace")
            except OSError:
                hidden.append(str(file))
                continue
            if ACTION in text:
                of_units = 'lookup("unit")' in text or "lookup('unit')" in text
                rules.append(PolkitRule(path=str(file), of_units=of_units))
    return PolkitFacts(rules=tuple(rules), hidden=tuple(hidden))
