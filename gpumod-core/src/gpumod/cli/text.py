"""Text from outside, made safe to show: control sequences and bidirectional overrides are removed, not interpreted."""

from __future__ import annotations

import re
import unicodedata

_SEQUENCES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\|$)"  # OSC: titles, links
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\|$)"  # DCS, SOS, PM, APC
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|\x1b[ -/]*[0-~]?"  # two-byte escapes
)
_KEPT_FORMAT = {"\u200d", "\u200c"}
_BLANKS = "\t\n\v\f\r\x85\u2028\u2029"


def safe(value: object) -> str:
    """`value` as one line without control characters; line breaks and tabs become a blank."""
    text = _SEQUENCES.sub("", str(value))
    return "".join(" " if c in _BLANKS else c for c in text if c in _BLANKS or not _is_control(c))


def safe_lines(value: object) -> list[str]:
    """The same, line by line, blanks at the left kept."""
    return [safe(line.expandtabs(4)) for line in str(value).splitlines()]


def _is_control(char: str) -> bool:
    return char not in _KEPT_FORMAT and unicodedata.category(char) in ("Cc", "Cf", "Cs")
