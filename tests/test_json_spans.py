"""Where JSON values begin and end: of arbitrary documents in arbitrary spelling, and of texts that are made to hurt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer import json_spans
from producer.json_spans import Member, NotJson, elements, members, value_end

# Documents as they are written: every token spelled in one of its ways, white space wherever it may be


class Child(NamedTuple):
    """An element, or a member with its key as it is written; and the white space before, around the colon, and behind."""

    name: str | None
    value: Node
    gaps: tuple[str, str, str, str]


class Box(NamedTuple):
    """A container; `gap` is in it if nothing else is."""

    brackets: str
    children: tuple[Child, ...]
    gap: str


Node = str | Box
"""A scalar is the text of its token."""


def written(node: Node) -> str:
    if isinstance(node, str):
        return node
    inside = ",".join(map(child_written, node.children)) if node.children else node.gap
    return node.brackets[0] + inside + node.brackets[1]


def child_written(child: Child) -> str:
    before, key_gap, value_gap, behind = child.gaps
    name = "" if child.name is None else child.name + key_gap + ":" + value_gap
    return before + name + written(child.value) + behind


def spelled(text: str, way: int) -> str:
    """The text as a JSON string: as it is, in ASCII, all in escapes, or only its last character in one."""
    if way < 2:
        return json.dumps(text, ensure_ascii=way == 1)
    escapes = ["".join(f"\\u{unit:04x}" for unit in units(letter)) for letter in text]
    if way == 3:
        return json.dumps(text[:-1], ensure_ascii=False)[:-1] + "".join(escapes[-1:]) + '"'
    return '"' + "".join(escapes) + '"'


def units(letter: str) -> list[int]:
    return [int.from_bytes(pair, "big") for pair in zip(*[iter(letter.encode("utf-16-be"))] * 2, strict=True)]


ways = st.integers(0, 3)
strings = st.builds(spelled, st.text(max_size=6) | st.text('"\\[]{}:,/ \n\0é\u2028🎫', max_size=6), ways)
numbers = st.sampled_from("0 -0 1 1.0 10e-1 360001 360001.0 3.60001E5 -7 1e400 123456789012345678901234567890".split())
scalars = strings | numbers | st.sampled_from(["true", "false", "null", '"x"'])
gaps = st.sampled_from(["", "", "", " ", "\n\t", "\r "])


def documents(names: st.SearchStrategy[str], leaves: st.SearchStrategy[Node] = scalars) -> st.SearchStrategy[Node]:
    """Documents with keys of those names, each spelled in any way."""
    gap = st.tuples(gaps, gaps, gaps, gaps)
    keys = st.builds(spelled, names, ways)

    def boxes(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        array_children = st.lists(st.builds(Child, st.none(), inner, gap), max_size=5).map(tuple)
        object_children = st.lists(st.builds(Child, keys, inner, gap), max_size=5).map(tuple)
        return st.builds(Box, st.just("[]"), array_children, gaps) | st.builds(
            Box, st.just("{}"), object_children, gaps
        )

    return st.recursive(leaves, boxes, max_leaves=25)


anything = documents(st.text(max_size=3))
containers = anything.filter(lambda node: isinstance(node, Box))


# What is found, against what a parser finds


def parsed(text: bytes) -> Any:
    """By the standard library, with members in order and repeated ones kept."""
    return json.loads(text, object_pairs_hook=lambda pairs: ("object", pairs))


def put_together(text: bytes, start: int, end: int) -> Any:
    """The same, by spans; only scalars go to the parser."""
    if text[start : start + 1] == b"[":
        return [put_together(text, *span) for span in elements(text, start)]
    if text[start : start + 1] == b"{":
        return "object", [(member.key, put_together(text, *member.value)) for member in members(text, start)]
    return json.loads(text[start:end])


@given(anything, gaps, st.sampled_from(["", " ", ",", "]", "}", ' "x"', ":"]))
def test_spans_put_together_again_give_the_same_value(node: Node, before: str, behind: str) -> None:
    value = written(node).encode()
    text = before.encode() + value + behind.encode()
    start = len(before)
    assert value_end(text, start) == start + len(value)
    assert put_together(text, start, start + len(value)) == parsed(value)


def test_a_repeated_key_is_there_each_time_and_in_order() -> None:
    text = b'{"a":1,"b":2,"a":3, "\\u0061" : 4}'
    assert [(member.key, text[slice(*member.value)]) for member in members(text, 0)] == [
        ("a", b"1"),
        ("b", b"2"),
        ("a", b"3"),
        ("a", b"4"),
    ]


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        (rb"sub\u006aect", "subject"),
        (rb"\uD83C\uDFAB", "🎫"),
        ("größe".encode(), "größe"),
        (b"", ""),
        (rb"\"\\", '"\\'),
        (rb"a\ud800", None),
        (rb"\udfab\ud83c", None),
        (rb"\x", None),
        (rb"\u12", None),
        (b"\xff", None),
        (b"\xed\xa0\x80", None),
        (b"\xc0\xaf", None),
    ],
    ids=lambda value: ascii(value),
)
def test_a_key_is_its_text_or_none_if_it_is_no_text(key: bytes, plain: str | None) -> None:
    text = b'{"before":1, "' + key + b'" :2}'
    assert [member.key for member in members(text, 0)] == ["before", plain]
    assert [text[slice(*member.name)] for member in members(text, 0)] == [b'"before"', b'"' + key + b'"']


def test_what_no_parser_takes_is_passed_over_exactly() -> None:
    strings = [rb'"\ud800"', b'"\xff\xfe"', b'"\x00\x1b[31m"', b'"\\"', b"1e400", b"-", b"NaN", b"nul", b"\xff"]
    strings[3] += b']}"'  # an escaped quote, then brackets
    text = b"[" + b" , ".join(strings) + b"]"
    assert [text[slice(*span)] for span in elements(text, 0)] == strings


@pytest.mark.parametrize("leading", ["", " \n"], ids=["at once", "behind white space"])
def test_an_array_or_object_may_be_empty_and_stand_behind_white_space(leading: str) -> None:
    assert elements(leading.encode() + b"[ \n]", 0) == []
    assert members(leading.encode() + b"{ \n}", 0) == []


# Cutting


def cut(text: bytes, found: list[Member], chosen: set[int]) -> bytes:
    """The text without the chosen members, each with one comma."""
    for index, member in reversed([*enumerate(found)]):
        if index in chosen:
            kept_before = any(other not in chosen for other in range(index))
            if kept_before:
                comma = found[index - 1].comma
                assert comma is not None
                text = text[:comma] + text[member.value[1] :]
            else:
                text = text[: member.name[0]] + text[member.value[1] if member.comma is None else member.comma + 1 :]
    return text


@given(containers, st.sets(st.integers(0, 5)))
def test_any_members_can_be_cut_out_with_their_commas_and_the_others_stay(node: Box, chosen: set[int]) -> None:
    text = written(Box("{}", (*node.children,), "")).encode() if node.brackets == "{}" else b'{"a":1,"b":[],"c":{}}'
    _, pairs = parsed(text)
    rest = cut(text, members(text, 0), chosen)
    assert parsed(rest) == ("object", [pair for index, pair in enumerate(pairs) if index not in chosen])


@given(containers)
def test_between_two_members_is_one_comma_and_white_space(node: Box) -> None:
    text = written(node).encode()
    found = members(text, 0) if node.brackets == "{}" else []
    for one, next_one in pairwise(found):
        assert one.comma is not None
        assert text[one.value[1] : next_one.name[0]].strip() == b","
        assert text[one.comma : one.comma + 1] == b","
    assert [member.comma for member in found[-1:]] == [None] * bool(found)


# What does not balance

EndOf = Callable[[bytes, int], int]


def is_whole(text: bytes, end_of: EndOf) -> bool:
    """Whether the text is taken for one value from its first to its last byte."""
    try:
        return end_of(text, 0) == len(text)
    except NotJson:
        return False


def brackets(text: bytes) -> Iterator[int]:
    """The offsets of brackets outside strings, byte by byte."""
    inside = escaped = False
    for at, byte in enumerate(text):
        if inside:
            inside = escaped or byte != ord('"')
            escaped = not escaped and byte == ord("\\")
        elif byte == ord('"'):
            inside = True
        elif byte in b"[]{}":
            yield at


def damaged(text: bytes) -> Iterator[bytes]:
    """The text with a bracket left out, doubled or of the other kind; and what is left where it was cut short."""
    for at in brackets(text):
        bracket = text[at : at + 1]
        other = bracket.translate(bytes.maketrans(b"[]{}", b"{}[]"))
        yield from (text[:at] + instead + text[at + 1 :] for instead in (b"", bracket * 2, other))
    yield from (text[:end] for end in range(len(text)))


def listing(text: bytes, start: int) -> int:
    """As `value_end`, of a container by its listing: whatever it is, it may not be read over the edge."""
    end = value_end(text, start)
    found = elements(text, start) if text[:1] == b"[" else [member.value for member in members(text, start)]
    assert not found or found[-1][1] < end
    return end


def wrongly_taken(text: bytes, end_of: EndOf) -> list[bytes]:
    """Damaged texts that are taken for whole, or the text itself if it is not."""
    return [each for each in damaged(text) if is_whole(each, end_of)] + [text] * (not is_whole(text, end_of))


@given(containers)
def test_no_text_whose_brackets_or_strings_do_not_balance_is_taken_for_whole(node: Box) -> None:
    text = written(node).encode()
    assert wrongly_taken(text, value_end) == []
    assert wrongly_taken(text, listing) == []


def counting_alone(text: bytes, start: int) -> int:
    """Wrong: any closing bracket closes any opening one."""
    depth = 0
    for at in brackets(text):
        depth += 1 if text[at] in b"[{" else -1
        if depth <= 0:
            return at + 1
    raise NotJson("open", len(text))


def without_strings(text: bytes, start: int) -> int:
    """Wrong: does not know that a bracket in a string is none."""
    return value_end(text.replace(b'"', b""), start) + text.count(b'"')


def without_escapes(text: bytes, start: int) -> int:
    """Wrong: takes every quote for the end of a string."""
    return value_end(text.replace(b"\\", b"_"), start)


@pytest.mark.parametrize(
    ("text", "end_of"),
    [(b"[{}]", counting_alone), (b'{"a":"]"}', without_strings), (b'["\\"]"]', without_escapes)],
    ids=["counting alone", "without strings", "without escapes"],
)
def test_the_check_sees_a_scanner_that_is_wrong(text: bytes, end_of: EndOf) -> None:
    assert wrongly_taken(text, value_end) == []
    assert wrongly_taken(text, end_of) != []


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        (b"[1,]", 3),
        (b"[,1]", 1),
        (b"[1 2]", 3),
        (b"[1:2]", 2),
        (b"[1", 2),
        (b"[", 1),
        (b'["a]', 1),
        (b"[[1}]", 3),
        (b"[[[1]]}", 6),
        (b'{"a":1,}', 7),
        (b'{"a" 1}', 1),
        (b"{a:1}", 1),
        (b'{"a":}', 5),
        (b'{"a":1;"b":2}', 7),
        (b'{"a":1]', 6),
        (b'{"a":{"b":[}}', 11),
        (b"1", 0),
        (b"", 0),
        (b" ", 1),
        (b'{"a":"\\', 5),
    ],
    ids=lambda value: ascii(value),
)
def test_what_is_wrong_is_told_with_its_offset(text: bytes, offset: int) -> None:
    with pytest.raises(NotJson, match=f"at byte {offset}$") as caught:
        (members if text[:1] == b"{" else elements)(text, 0)
    assert caught.value.offset == offset


@pytest.mark.parametrize("text", [b'["canary" canary]', b'{"canary" 1}', b'["canary', b'[{"canary":canary]'])
def test_an_error_quotes_nothing_of_the_text(text: bytes) -> None:
    with pytest.raises(NotJson) as caught:
        (members if text[:1] == b"{" else elements)(text, 0)
    assert "canary" not in str(caught.value)


# Texts that are made to hurt

DEEP = 1_000_000
LONG = 5_000_000


@pytest.mark.parametrize(
    ("opening", "closing"),
    [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a": ', b"} ]"), (b'[1,"]",', b",{}]")],
    ids=["arrays", "objects", "both", "with neighbours"],
)
def test_a_million_levels_are_no_obstacle(opening: bytes, closing: bytes) -> None:
    text = opening * DEEP + b"1" + closing * DEEP
    assert value_end(text, 0) == len(text)
    assert listing(text, 0) == len(text)
    assert not is_whole(text[:-1], value_end)


@dataclass(frozen=True)
class Hostile:
    """A text of about so many bytes, and whether it is whole."""

    name: str
    make: Callable[[int], bytes]
    whole: bool


HOSTILE = [
    Hostile("opening brackets", lambda n: b"[" * n, False),
    Hostile("brackets of both kinds", lambda n: b"[{" * (n // 2), False),
    Hostile("nothing but pairs", lambda n: b"[" + b"[],{}," * (n // 6) + b"1]", True),
    Hostile("nested to half", lambda n: b"[" * (n // 2) + b"]" * (n // 2), True),
    Hostile("nested with elements", lambda n: b'[1,"x",' * (n // 9) + b"1" + b"]" * (n // 9), True),
    Hostile("nested objects", lambda n: b'{"a":' * (n // 6) + b"1" + b"}" * (n // 6), True),
    Hostile("closed by the wrong kind", lambda n: b"[" * (n // 2) + b"}" * (n // 2), False),
    Hostile("quotes", lambda n: b"[" + b'"' * n, False),
    Hostile("backslashes", lambda n: b'["' + b"\\" * n + b'"]', True),
    Hostile("backslashes without an end", lambda n: b'["' + b"\\" * (n + n % 2 + 1) + b'"]', False),
    Hostile("escaped quotes", lambda n: b'["' + b'\\"' * (n // 2) + b'"]', True),
    Hostile("a string without an end", lambda n: b'["' + b"x]" * (n // 2), False),
    Hostile("empty strings", lambda n: b"[" + b'"",' * (n // 3) + b"0]", True),
    Hostile("strings and brackets", lambda n: b'["' * (n // 2), False),
    Hostile("white space", lambda n: b"[1" + b" " * n + b"]", True),
    Hostile("white space without an end", lambda n: b"[1" + b" " * n, False),
    Hostile("commas", lambda n: b"[" + b"," * n + b"]", True),
    Hostile("a key without an end", lambda n: b'{"' + b"k" * n, False),
    Hostile("keys alone", lambda n: b"{" + b'"k"' * (n // 3) + b"}", True),
    Hostile("one number", lambda n: b"[" + b"7" * n + b"]", True),
]
hostile = pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)


@hostile
def test_five_megabytes_that_are_made_to_hurt_are_told_whole_or_not(case: Hostile) -> None:
    assert is_whole(case.make(LONG), value_end) is case.whole


class Work:
    """Counts the bytes that the scanner's regular expressions run over. They never go back, so that these are their steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done = 0
        for name in ("_space", "_scalar", "_key", "_delimiter", "_brackets"):
            monkeypatch.setattr(json_spans, name, Counted(getattr(json_spans, name), self))


class Counted:
    def __init__(self, pattern: Any, work: Work) -> None:
        self._pattern = pattern
        self._work = work

    def match(self, text: bytes, at: int) -> Any:
        found = self._pattern.match(text, at)
        self._work.done += 1 + (len(text) if found is None else found.end()) - at
        return found

    def finditer(self, text: bytes, at: int) -> Iterator[Any]:
        for found in self._pattern.finditer(text, at):
            self._work.done += 1 + found.end() - found.start()
            yield found


def listed(text: bytes) -> None:
    """The elements or members of a container, and the end of it."""
    try:
        value_end(text, 0)
        (elements if text[:1] == b"[" else members)(text, 0)
    except NotJson:
        pass


def level_by_level(text: bytes) -> None:
    """Wrong: lists a container, then each in it, so that what is deep inside is passed over once for each level."""
    start: int | None = 0
    while start is not None:
        spans = elements(text, start)
        start = spans[0][0] if spans and text[spans[0][0]] == ord("[") else None


SIZES = [2_000, 20_000]
STEPS_PER_BYTE = 5


@hostile
@pytest.mark.parametrize("size", SIZES)
def test_the_work_grows_with_the_text_and_no_faster(case: Hostile, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    work, text = Work(monkeypatch), case.make(size)
    listed(text)
    assert work.done <= STEPS_PER_BYTE * len(text) + 20


def test_the_count_sees_work_that_grows_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    work, text = Work(monkeypatch), b"[" * 1_000 + b"]" * 1_000
    level_by_level(text)
    assert work.done > 100 * STEPS_PER_BYTE * len(text)
