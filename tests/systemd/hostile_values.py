"""Sixty texts that want to be something else than a text. Where one of them is obeyed, it leaves a file: CANARY."""

from __future__ import annotations

CANARY = "/var/tmp/gpumod-canary"
TOUCH = f"touch {CANARY}"

LINES = (
    "a\nb", "a\n", "\na", f"a\nExecStartPre=/usr/bin/{TOUCH}", f"a\n[Service]\nExecStartPre=/usr/bin/{TOUCH}",
    f"a\r\nExecStopPost=/usr/bin/{TOUCH}", "a\rb", "a\x85b", "a\u2028b", "a\u2029b", "a\\\nExecStart=",
)  # fmt: skip
CONTROLS = (
    "a\0b", "a\tb", "a\x08b", "a\x1b[31mb", "a\x1b]0;title\x07", "a\x7fb", "a\u202eb", "a\ufeffb", "a\u200bb",
    "a\ud800b",
)  # fmt: skip
"""Nothing of these may stand in a definition, nor of LINES."""
TOO_LONG = ("x" * 10_000, '\\"%$' * 2_500)
BACKSLASHES = ("\\", "end\\", "end\\\\", "a\\nb", "a\\x41b", "a\\ ;b")
SPECIFIERS = ("%n", "%h%t", "100%", "%%n")
DOLLARS = (f"$({TOUCH})", f"`{TOUCH}`", "${HOME}", "$HOME", "$$", "$0 $@ ${GPUMOD_SERVICE}")
QUOTES = ('"', "'", 'a "b" c', "it's", '"; ' + TOUCH + ' "')
SEPARATORS = (";", f" ; /usr/bin/{TOUCH}", f"| {TOUCH} &&", f"> {CANARY}", "# none", f"@/usr/bin/{TOUCH}", "-x")
OTHERS = ("", " a  b ", "{{ 7*7 }}", "{% raw %}", "{service_dir}", "A=1", "*?[ab]~", "../../etc/passwd", "y" * 4_000)
UNICODE = ("é漢字🙂", "\u00a0e\u0301\u3000", "👨\u200d👩\u200d👧")

REFUSED = (*LINES, *CONTROLS, *TOO_LONG)
HOSTILE = (*REFUSED, *BACKSLASHES, *SPECIFIERS, *DOLLARS, *QUOTES, *SEPARATORS, *OTHERS, *UNICODE)
