r"""EnvironmentFile=: variables in a file that only its owner reads. systemd expands nothing in it.

Values stand in double quotes, where `\` makes the next of `"`, `\`, `` ` `` and `$` (and nothing else) literal, and
newlines are kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpumod.adapters.templates import ENV_NAME
from gpumod.domain.errors import UsageError

SYSTEMDS_OWN = frozenset(
    {
        *("INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "MAINPID", "MANAGERPID"),
        *("NOTIFY_SOCKET", "SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS", "WATCHDOG_PID", "WATCHDOG_USEC"),
    }
)
"""Variables of systemd's own protocol: no service is given others."""


def environment_text(service: str, variables: Mapping[str, str]) -> str:
    """The file's text. Raises UsageError `bad-variable` for what systemd would not take, or must not be given."""
    lines = []
    for name in sorted(variables):
        value = variables[name]
        if not ENV_NAME.fullmatch(name) or name in SYSTEMDS_OWN:
            why = "it belongs to systemd" if name in SYSTEMDS_OWN else "it is no name that systemd takes"
            raise UsageError("bad-variable", f"service {service} cannot have the variable {name[:80]!r}", why=why)
        if "\0" in value or not _is_text(value):
            why = "its value is no text in UTF-8"
            raise UsageError("bad-variable", f"service {service} cannot have the variable {name}", why=why)
        escaped = re.sub(r'(["\\`$])', r"\\\1", value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
