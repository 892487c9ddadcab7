"""Names that speak of a secret: of options, variables, flags and headers. Whoever asks, asks here."""

from __future__ import annotations

import re

SECRETS = frozenset(
    {
        *("token", "secret", "secrets", "password", "passwords", "passwd", "passphrase", "pass", "pwd", "pgpass"),
        *("credential", "credentials", "key", "keys", "auth", "authorization", "jwt", "cookie", "cookies"),
    }
)
ENDINGS = ("token", "password", "passwd", "secret", "apikey", "apikeys", "secretkey", "accesskey", "privatekey")
"""Of words that are written as one (`HFTOKEN`). No plain `key`: that is how `monkey` ends."""
ACCESS = frozenset({"access", "admin", "api", "auth", "bearer", "client", "hf", "refresh", "session"})
"""Beside these, `tokens` are no pieces of text."""
SWITCHES = frozenset({"disable", "enable", "without"})
COUNTS = frozenset({"max", "min", "n", "num"})
"""What begins with these is a number, except of what is never counted."""
UNCOUNTED = frozenset({"secret", "password", "passwd", "passphrase"})
OF_TEXT = frozenset({"bos", "cls", "eos", "mask", "pad", "sep", "unk"})
"""Tokens of a tokenizer."""
ABOUT = frozenset(
    {
        *("limit", "budget", "count", "size", "len", "length", "timeout", "ttl", "id", "ids", "type", "name", "names"),
        *("file", "files", "path", "paths", "dir", "enabled", "required"),
    }
)
"""What ends with these tells something about a secret, or where it is: not the secret."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")


def is_secret_name(name: str) -> bool:
    """True for a name that speaks of a secret (`HF_TOKEN`, `--api-key`, `PGPASSWORD`); not for that of a file which
    holds one, of a limit (`max_tokens`), or of a switch (`--no-auth`)."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[0] == "no" or not SWITCHES.isdisjoint(words):
        return False
    if words[-1] in ABOUT and words[-2:] != ["secret", "id"]:  # Vault's is what opens it
        return False
    if words[0] in COUNTS:
        return words[-1] in UNCOUNTED
    return any(_is_secret(word.rstrip("0123456789"), words) for word in words)


def _is_secret(word: str, beside: list[str]) -> bool:
    if word == "tokens":
        return not ACCESS.isdisjoint(beside)
    if word == "token" and not OF_TEXT.isdisjoint(beside):
        return False
    return word in SECRETS or word.endswith(ENDINGS)
