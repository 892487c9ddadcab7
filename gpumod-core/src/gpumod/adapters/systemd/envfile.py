r"""EnvironmentFile=: variables in a file that only its owner reads. systemd expands nothing in it.

Values stand in double quotes, where `\` makes the next of `"`, `\`, `` ` `` and `$` (and nothing else) literal, and
newlines are kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpumod.domain.errors import UsageError
from gpumod.domain.secrets import why_no_variable


def environment_text(service: str, variables: Mapping[str, str]) -> str:
    """The file's text. Raises UsageError `bad-variable` for what systemd would not take, or must not be given."""
    lines = []
    for name in sorted(variables):
        value = variables[name]
        if why := why_no_variable(name, value):
            raise UsageError("bad-variable", f"service {service} cannot have the variable {name[:80]!r}", why=why)
        escaped = re.sub(r'(["\\`$])', r"\\\1", value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)
