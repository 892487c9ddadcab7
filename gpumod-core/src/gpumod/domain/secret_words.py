"""Secrets in a command, given as a list of words or as one text: found, taken out, and put back where they were."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gpumod.domain.secret_names import is_secret_name

GONE = object()
"""What is left of a word that is secret as a whole."""
EDGE = object()
"""Beside the first word, and the last."""
ADDRESS = "an address with a password"
ITEM = "one of its items"
"""What to call a secret that has no name."""

_VALUE, _REST, _HEADER_NEXT = "value", "rest", "header"
_LOGIN = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_QUOTED = re.compile(r"""\\"([^"]*)\\"|\\'([^']*)\\'|\\.|'([^']*)'|"((?:\\.|[^"\\])*)\"""")
"""What is in quotes, or in those of a text that is in quotes itself; a character behind a backslash opens none."""
_NEXT_COMMAND = r"[;&|]{1,2}(?:[A-Za-z_]\w*=|--?[A-Za-z])"
"""Where a shell begins a command without a blank before it."""
_TEXT_WORD = re.compile(rf"(?:{_QUOTED.pattern}|\S)+")
_SHELL_WORD = re.compile(rf"[;&|]*(?:{_QUOTED.pattern}|(?!{_NEXT_COMMAND})\S)+")
_QUOTES = "'\"\\"
_AROUND = _QUOTES + "(;&|`$"
"""What may stand around a word of a text, beside blanks."""
_FLAG = re.compile(r"--?[A-Za-z][\w.-]*")
_ASSIGNED = re.compile(r"(?:^|[,;&?])([A-Za-z_][\w.-]*)=(?=.)", re.DOTALL)
_PLAIN = re.compile(r"(?:int|float|bool|str):|(?:true|false|none|null|[\d.]+)(?:$|[,;&])", re.IGNORECASE)
"""Values that open nothing."""
_GIVEN = re.compile(r"--?[A-Za-z][\w.-]*=")
_NAME = re.compile(r"(?:-[A-Za-z]{0,8}?H)?([A-Za-z_][\w.-]*)[=:]")
_HEADER = re.compile(r"([A-Za-z][\w-]*):(?!//)")
_GLUED_HEADER = re.compile(r"-[A-Za-z]*?H(?=[^=])")
_TAKES_COMMAND = re.compile(r"-[a-z]*c")
_TAKES_HEADER = re.compile(r"-[A-Za-z]*H|--(?:proxy-)?headers?")


@dataclass(frozen=True)
class Word:
    """A word of a command, and `left` of it without the `secrets` in it, which go by `names`. A flag has its name, its
    value none. `end` is where it ends in a text, `start` where it begins."""

    whole: Any
    left: Any
    secrets: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    start: int = 0
    end: int = 0


def has_login(text: str) -> bool:
    """True where an address with a password is in `text`."""
    return _LOGIN.search(text) is not None


def parts_of(secret: str) -> set[str]:
    """What of a secret somebody else may repeat alone: its words, with and without the names in them, and the password
    of an address; no flags."""
    found = set(_LOGIN.findall(secret))
    for word in secret.split():
        bare = word.strip(_AROUND + ")")
        alone = _NAME.fullmatch(bare)
        if _FLAG.fullmatch(bare) or (alone and is_secret_name(alone[1])):
            continue
        if given := _GIVEN.match(bare):
            bare = bare[given.end() :].lstrip(_AROUND)
        name = _NAME.match(bare)
        values = [bare[name.end() :] if name and is_secret_name(name[1]) else bare]
        values += [bare[match.end() :] for match in _ASSIGNED.finditer(bare) if is_secret_name(match[1])]
        for value in values:
            found |= {value, value.rstrip("="), re.split("[;&|,]", value)[0]}
        found |= {word.strip(_QUOTES), bare}
    return found


def words_of_list(words: Iterable[Any], holds: Callable[[Any], bool]) -> list[Word]:
    """Each word of a command that is a list. `holds` tells of what is no text whether a secret is in it."""
    out: list[Word] = []
    coming = ""
    before = ""
    for word in words:
        text = word if isinstance(word, str) else ""
        found, coming = _read(text, coming)
        if found is not None or (not isinstance(word, str) and holds(word)):
            out.append(Word(word, GONE, (word,), (ITEM,) if found is None else found))
        elif any(map(str.isspace, text)):  # it may be a command itself, for `sh -c`
            left, held = without_secrets(text, words_of_text(text, of_shell=_is_command(before)), strip=False)
            out.append(_partly(text, left, held))
        else:
            out.append(Word(word, word))
        before = text
    return out


def words_of_text(text: str, *, of_shell: bool = False) -> list[Word]:
    """Each word of a command that is one text; quotes keep a word together, and what they hold is looked through.
    A command `of_shell` is read as a shell does."""
    out: list[Word] = []
    coming = before = ""
    for match in (_SHELL_WORD if of_shell else _TEXT_WORD).finditer(text):
        found, coming = _read(match[0], coming)
        word = _within(match[0], before) if found is None else Word(match[0], GONE, (match[0],), found)
        before = match[0]
        out.append(Word(word.whole, word.left, word.secrets, word.names, match.start(), match.end()))
    return out


def without_secrets(text: str, words: Iterable[Word], *, strip: bool = True) -> tuple[str, list[Word]]:
    """`text` without the secrets of its `words`, and the words that held some."""
    left, here = "", 0
    held = [word for word in words if word.secrets]
    for word in held:
        before = text[here : word.start]
        left += before.rstrip() if word.left is GONE else before + word.left
        here = word.end
    left += text[here:]
    return left.strip() if strip and held else left, held


def put_in_list(said: Sequence[Any], stored: Sequence[Word]) -> list[Any] | None:
    """`said` with the secrets of `stored`, each behind the word that it followed; None where its place is not sure."""
    places = _places(said, stored)
    if places is None:
        return None
    out = list(said)
    for place, secrets in reversed(places):
        out[place:place] = secrets
    return out


def put_in_text(said: str, stored: Sequence[Word]) -> str | None:
    """As :func:`put_in_list`, in a command that is one text."""
    words = words_of_text(said)
    places = _places([word.whole for word in words], stored)
    if places is None:
        return None
    for place, secrets in reversed(places):
        end = words[place - 1].end if place else 0
        before, behind = said[:end], said[end:]
        lead, trail = " " if before else "", " " if behind and not behind[0].isspace() else ""
        said = f"{before}{lead}{' '.join(secrets)}{trail}{behind}"
    return said


def _read(word: str, coming: str) -> tuple[tuple[str, ...] | None, str]:
    """The names of the secret that `word` is (None: of none), and what of it is in the words that come."""
    if coming == _REST:
        return (), _REST
    said = _bare(word)
    flag, glued = _FLAG.match(said), _GLUED_HEADER.match(said)
    if flag and is_secret_name(flag[0]) and not (glued and said.startswith(":", flag.end())):
        return (flag[0],), "" if said[flag.end() :].strip(_AROUND) else _VALUE
    if coming == _VALUE and not word.startswith("-"):
        return (), ""
    takes_header = flag is not None and _TAKES_HEADER.fullmatch(flag[0]) is not None
    coming_header = _HEADER_NEXT if takes_header else ""
    if glued:
        said, coming = _bare(said[glued.end() :]), _HEADER_NEXT
    elif flag and said.startswith("=", flag.end()):
        said, coming, coming_header = _bare(said[flag.end() + 1 :]), coming_header, ""
    if names := _assigned(said):
        return names, ""
    header = _HEADER.match(said)
    if header and is_secret_name(header[1]):
        value = said[header.end() :]
        if not value.strip(_AROUND):
            return (header[1],), _REST
        if value[0].isspace() or coming == _HEADER_NEXT or header[1].lower().endswith("authorization"):
            return (header[1],), ""
    return ((ADDRESS,), "") if has_login(word) else (None, coming_header)


def _assigned(said: str) -> tuple[str, ...]:
    """The names of secrets that `said` sets; of what may be a command itself, only the one that it begins with."""
    whole = not any(map(str.isspace, said))
    found = (match for match in _ASSIGNED.finditer(said) if whole or match.start() == 0)
    return tuple(match[1] for match in found if is_secret_name(match[1]) and not _is_property(match))


def _is_property(match: re.Match[str]) -> bool:
    """True for one of several, or one with a dot in its name, whose value opens nothing: a model's, a program's."""
    inner = match.start() > 0 or "." in match[1]
    return inner and _PLAIN.match(match.string, match.end()) is not None


def _is_command(before: str) -> bool:
    """True for what follows `before`, where that is the flag with which a shell takes a command."""
    return _TAKES_COMMAND.fullmatch(before) is not None


def _bare(word: str) -> str:
    """`word` from where it begins to say something."""
    return word.lstrip(_AROUND + " \t\n")


def _within(word: str, before: str) -> Word:
    """A word of a text, which follows `before`, with what is in its quotes looked through, as of `sh -c '...'`."""
    left, here = "", 0
    held: list[Word] = []
    for quoted in _QUOTED.finditer(word):
        if quoted.lastindex is None:
            continue
        inner = quoted[quoted.lastindex]
        shown, secret = without_secrets(inner, words_of_text(inner, of_shell=_is_command(before)), strip=False)
        if secret:
            left += word[here : quoted.start(quoted.lastindex)] + shown
            here = quoted.end(quoted.lastindex)
            held += secret
    return _partly(word, left + word[here:], held)


def _partly(word: str, left: str, held: Iterable[Word]) -> Word:
    secrets = tuple(secret for inner in held for secret in inner.secrets)
    return Word(word, left if secrets else word, secrets, tuple(name for inner in held for name in inner.names))


def _places(said: Sequence[Any], stored: Sequence[Word]) -> list[tuple[int, list[Any]]] | None:
    """Where in `said` secrets come, in its order; None where that is not sure: a secret stood within a word, the word
    that it followed is not there once, or what comes next may be something that it belongs before."""
    if any(word.secrets and word.left is not GONE for word in stored):
        return None
    kept = [word.whole for word in stored if not word.secrets]
    groups: dict[int, list[Any]] = {}
    passed = 0
    for word in stored:
        if word.secrets:
            groups.setdefault(passed, []).append(word.whole)
        else:
            passed += 1
    places = []
    for index, secrets in groups.items():
        before = kept[index - 1] if index else EDGE
        if before is not EDGE and (kept.count(before) != 1 or said.count(before) != 1):
            return None
        place = said.index(before) + 1 if before is not EDGE else 0
        after = kept[index] if index < len(kept) else EDGE
        now = said[place] if place < len(said) else EDGE
        between_flags = (_is_flag(secrets[0]) or _is_flag(before)) and (now is EDGE or _is_flag(now))
        if now != after and not between_flags:
            return None
        places.append((place, secrets))
    return sorted(places, key=lambda found: found[0])


def _is_flag(word: Any) -> bool:
    return isinstance(word, str) and word.startswith("-")
