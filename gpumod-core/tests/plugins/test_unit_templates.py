"""Templates: who wins, what is refused, and that any text reaches a unit as itself."""

import os
import re
import sys
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpumod.adapters.templates import RISKY_ENV, Templates, systemd_env, systemd_text, systemd_word
from gpumod.domain.base import has_control_characters
from gpumod.domain.errors import Failed, UnknownName, UsageError

# --- a reference parser of what systemd makes of a unit file ------------------------------------------------------


def logical_lines(unit: str) -> list[str]:
    """Lines as systemd joins them: an odd run of backslashes at the end takes the next line in."""
    lines: list[str] = []
    joined = ""
    for line in unit.split("\n"):
        if (len(line) - len(line.rstrip("\\"))) % 2:
            joined += line[:-1] + " "
            continue
        lines.append(joined + line)
        joined = ""
    return [*lines, joined] if joined else lines


def words(value: str) -> list[str]:
    """Split and unquote as in a list-like value; only the escapes that can occur are known."""
    found: list[str] = []
    position = 0
    while position < len(value):
        if value[position] in " \t":
            position += 1
            continue
        word = ""
        quote = ""
        while position < len(value) and (quote or value[position] not in " \t"):
            char = value[position]
            if char == "\\":
                position += 1
                word += {"\\": "\\", '"': '"', "'": "'", "n": "\n", "t": "\t"}[value[position]]
            elif quote and char == quote:
                quote = ""
            elif not quote and char in "\"'":
                quote = char
            else:
                word += char
            position += 1
        assert not quote, "a quote is left open"
        found.append(word)
    return found


def specifiers(text: str) -> str:
    assert not re.search(r"%(?!%)", text.replace("%%", "")), "an unknown specifier: the unit would not load"
    return text.replace("%%", "%")


def variables(text: str) -> str:
    assert "$" not in text.replace("$$", ""), "a variable would be expanded"
    return text.replace("$$", "$")


def value_of(unit: str, key: str) -> str:
    (line,) = [line for line in logical_lines(unit) if line.startswith(f"{key}=")]
    return line.partition("=")[2].strip()


texts = st.text(
    st.sampled_from(list("\\\"'%$;{} \taAnx0=-@#|é\u200b\n\r\0\x1b")) | st.characters(exclude_categories=["Cs"]),
    max_size=30,
)
UNIT = """[Unit]
Description={{ text | systemd_text }}
[Service]
Environment={{ "A_1" | systemd_env(text) }}
ExecStart=/bin/true {{ text | systemd_word }} {{ "end" | systemd_word }}
ExecStartPre=/bin/false
"""


@pytest.fixture(scope="module")
def unit_templates(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "templates").mkdir()
    (home / "templates" / "unit.j2").write_text(UNIT)
    return Templates(home)


@given(text=texts)
def test_any_text_comes_back_as_itself_or_is_refused(unit_templates, text):
    if has_control_characters(text):
        with pytest.raises(UsageError, match="cannot hold"):
            unit_templates.render("unit.j2", text=text)
        return
    unit = unit_templates.render("unit.j2", text=text)
    lines = logical_lines(unit)
    assert [line.partition("=")[0] for line in lines] == [
        "[Unit]", "Description", "[Service]", "Environment", "ExecStart", "ExecStartPre", "",
    ]  # fmt: skip
    command = words(specifiers(value_of(unit, "ExecStart")))
    assert [variables(word) for word in command] == ["/bin/true", text, "end"]
    assert words(specifiers(value_of(unit, "Environment"))) == [f"A_1={text}"]
    shown = specifiers(value_of(unit, "Description"))
    assert shown in (text.strip(), text.strip() + "\\")
    if not text.endswith("\\"):
        assert shown == text.strip()


@given(text=texts)
def test_each_filter_alone(text):
    assume(not has_control_characters(text))
    assert [variables(word) for word in words(specifiers(systemd_word(text)))] == [text]
    assert words(specifiers(systemd_env("X", text))) == [f"X={text}"]
    assert (len(systemd_text(text)) - len(systemd_text(text).rstrip("\\"))) % 2 == 0


def test_the_escapes_by_name():
    assert systemd_word('a "b" \\ %n $HOME ;') == '"a \\"b\\" \\\\ %%n $$HOME ;"'
    assert systemd_env("X", 'a "b" \\ %n $HOME') == '"X=a \\"b\\" \\\\ %%n $HOME"'
    assert systemd_text('100% "sure" $HOME \\n') == '100%% "sure" $HOME \\n'
    assert systemd_text("end\\") == "end\\\\"
    assert systemd_word(8000) == '"8000"'


@pytest.mark.parametrize("escape", [systemd_word, systemd_text, lambda text: systemd_env("X", text)])
@pytest.mark.parametrize("hostile", ["a\nExecStartPre=/bin/sh", "a\r", "\0", "\x1b[2J", "\u2028", "\u202e"])
def test_control_characters_are_refused(escape, hostile):
    with pytest.raises(UsageError) as caught:
        escape(hostile)
    assert caught.value.code == "bad-unit-text"
    assert caught.value.info.hint


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A\n", "É", "A=B", "LD_PRELOAD", "PATH", "NOTIFY_SOCKET"])
def test_names_of_variables(name):
    with pytest.raises(UsageError) as caught:
        systemd_env(name, "x")
    assert caught.value.code == "bad-variable"


def test_a_risky_variable_can_be_wanted():
    assert {systemd_env(name, "x", wanted=True) for name in RISKY_ENV} == {f'"{name}=x"' for name in RISKY_ENV}


# --- which template is taken ------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path):
    """A home, a plugin's folder and a service's own file."""
    offered = tmp_path / "offered"
    offered.mkdir()
    (tmp_path / "templates").mkdir()
    (offered / "vllm.service.j2").write_text("offered {{ name }}\n")
    (offered / "other.j2").write_text("offered other\n")
    (tmp_path / "own.j2").write_text("own {{ name }}")
    return tmp_path


def test_the_order(house):
    templates = Templates(house, [house / "offered"])
    own = str(house / "own.j2")
    assert templates.render("vllm.service.j2", name="x") == "offered x\n"
    assert templates.render("vllm.service.j2", own="other.j2", name="x") == "offered other\n"
    assert templates.render("vllm.service.j2", own=own, name="x") == "own x"
    (house / "templates" / "vllm.service.j2").write_text("user {{ name }}")
    (house / "templates" / "other.j2").write_text("user other")
    assert templates.render("vllm.service.j2", name="x") == "user x"
    assert templates.render("vllm.service.j2", own=own, name="x") == "user x"
    assert templates.render("vllm.service.j2", own="other.j2", name="x") == "user other"
    assert templates.names() == ("other.j2", "unit.service.j2", "vllm.service.j2", "watch.service.j2")


def test_a_home_without_templates_of_its_own(tmp_path):
    with pytest.raises(UnknownName) as caught:
        Templates(tmp_path / "nowhere").render("vllm.service.j2")
    assert caught.value.code == "unknown-template"


@pytest.mark.parametrize("name", ["vlm.service.j2", "vlm", "vllm", "../own.j2", "sub/../../own.j2", "offered"])
def test_what_is_not_there_is_told_with_what_is(house, name):
    with pytest.raises(UnknownName) as caught:
        Templates(house, [house / "offered"]).render(name, name="x")
    assert caught.value.code == "unknown-template"
    assert str(house / "templates") in caught.value.info.why
    assert "vllm.service.j2" in caught.value.info.hint
    assert (caught.value.info.hint == "did you mean vllm.service.j2?") == name.startswith("vl")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ name", "line 1"),
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{{ name | no_such_filter }}", "no_such_filter"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "too big"),
        ("{{ some.append(1) }}", "is unsafe"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 'a' * 2_000_000 }}", "more than 1000000 letters"),
        ("{{ (2_000_000 * [name]) | length }}", "more than 1000000 letters"),
        ("{{ 2 ** 2_000_000 % 7 }}", "more than 1000000 letters"),
        ("{% set n = namespace(x=9) %}{% for _ in range(21) %}{% set n.x = n.x * n.x %}{% endfor %}", "OverflowError"),
    ],
)
def test_a_bad_template_is_told_not_shown_as_a_traceback(house, source, why):
    (house / "templates" / "bad.j2").write_text(source)
    with pytest.raises(Failed) as caught:
        Templates(house).render("bad.j2", name="x", some=[])
    assert caught.value.code == "bad-template"
    assert why in caught.value.info.why
    assert "docs/templates.md lists its variables" in caught.value.info.hint


def test_a_template_may_reckon(house):
    (house / "templates" / "sum.j2").write_text("{{ name * 3 }} {{ 2 ** 10 * 1.5 }} {{ 7 * -1 }} {{ [1] * -2 }}")
    assert Templates(house).render("sum.j2", name="ab") == "ababab 1536.0 -7 []"


def test_an_own_file_that_cannot_be_read(house):
    (house / "latin.j2").write_bytes(b"\xff")
    for own in ("/nowhere/x.j2", str(house), str(house / "latin.j2")):
        with pytest.raises(Failed) as caught:
            Templates(house).render("x.j2", own=own)
        assert caught.value.code == "bad-template"
        assert own in caught.value.info.message


def test_text_is_not_escaped_as_html_and_lines_of_blocks_vanish(house):
    (house / "templates" / "x.j2").write_text(
        "{% if name %}\n  {% for c in name %}\n{{ c }}<\n  {% endfor %}\n{% endif %}\n"
    )
    assert Templates(house).render("x.j2", name="&<") == "&<\n<<\n"


def test_a_template_that_is_changed_counts_at_once(tmp_path):
    """Also where its length and its time stay the same: what was compiled is known by its text."""
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "x.j2").write_text("one {{ text }}")
    shelf = Templates(tmp_path)
    assert shelf.render("x.j2", text="a") == "one a"
    times = (folder / "x.j2").stat().st_atime_ns, (folder / "x.j2").stat().st_mtime_ns
    (folder / "x.j2").write_text("two {{ text }}")
    os.utime(folder / "x.j2", ns=times)
    assert shelf.render("x.j2", text="a") == "two a"
    assert shelf.render("x.j2", text="b") == "two b"


def test_control_characters_are_those_of_the_categories():
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        is_control = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character != "\u200d"
        assert has_control_characters(character) == is_control, hex(code)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("kind", ["another's", "link", "another's link", "second name", "own of another's"])
def test_root_makes_nothing_of_what_another_user_can_choose(tmp_path, kind):
    folder = tmp_path / "templates"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    file, elsewhere = folder / "x.j2", tmp_path / "elsewhere"
    elsewhere.write_text("root's")
    if "link" in kind:
        file.symlink_to(elsewhere)
    elif kind == "second name":
        file.hardlink_to(elsewhere)
    else:
        file.write_text("theirs")
    if "another's" in kind:
        os.chown(file, 12345, 12345, follow_symlinks=False)
    own = str(file) if kind.startswith("own") else None
    assert Templates(tmp_path).render("y.j2" if own else "x.j2", own=own) in ("theirs", "root's")
    with pytest.raises(Failed) as caught:
        Templates(tmp_path, roots_only=True).render("y.j2" if own else "x.j2", own=own)
    assert caught.value.code == "foreign-template"
    file.unlink()
    file.write_text("root's own")
    assert Templates(tmp_path, roots_only=True).render("x.j2") == "root's own"


@pytest.mark.parametrize("own", [True, False])
def test_a_template_that_is_no_plain_file_is_not_waited_for(tmp_path, own):
    (tmp_path / "templates").mkdir()
    pipe = tmp_path / "templates" / "x.j2"
    os.mkfifo(pipe)
    for roots_only in (True, False):
        with pytest.raises(Failed, match=r"x\.j2") as caught:
            Templates(tmp_path, roots_only=roots_only).render("y.j2" if own else "x.j2", own=str(pipe) if own else None)
        assert caught.value.code == "bad-template"


def test_what_is_offered_may_be_linked_from_anywhere(tmp_path):
    """As package managers do it."""
    folder = tmp_path / "offered"
    folder.mkdir()
    (tmp_path / "cache").write_text("offered")
    (folder / "a.j2").symlink_to(tmp_path / "cache")
    (folder / "b.j2").hardlink_to(tmp_path / "cache")
    shelf = Templates(tmp_path, [folder], roots_only=True)
    assert shelf.render("a.j2") + shelf.render("b.j2") == "offeredoffered"
