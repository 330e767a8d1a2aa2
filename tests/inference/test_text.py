"""Text from tokens, and where it stops."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from kaito.inference import toolcalls
from kaito.inference.text import Detokenizer, StopFinder


def _utf8(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode(errors="replace")


@given(st.text(max_size=30), st.data())
def test_pieces_of_text_are_whole_characters_and_add_up(text: str, data: st.DataObject) -> None:
    tokens = list(text.encode())
    detokenizer, pieces = Detokenizer(_utf8), []
    while tokens:
        size = data.draw(st.integers(1, 4))
        pieces.append(detokenizer.push(tokens[:size]))
        del tokens[:size]
    pieces.append(detokenizer.flush())
    assert "".join(pieces) == text


@given(st.text("ab#", max_size=20), st.lists(st.text("ab#", min_size=1, max_size=4), max_size=3), st.data())
def test_the_text_ends_before_the_first_stop(text: str, stops: list[str], data: st.DataObject) -> None:
    finder, given_out, rest = StopFinder(stops), "", text
    while rest and not finder.found:
        size = data.draw(st.integers(1, 3))
        given_out += finder.push(rest[:size])
        rest = rest[size:]
    given_out += finder.flush()
    # A stop is found as soon as it is complete: the one that ends first, not the one that begins first, cuts the text.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert (given_out, finder.found) == (text, False)
    else:
        assert finder.found
        assert text.startswith(given_out)
        assert not any(stop in given_out for stop in stops)
        assert any(text.startswith(stop, len(given_out)) for stop in stops)


def test_tool_calls_are_taken_out_of_the_text() -> None:
    text, calls = toolcalls.split('<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call><tool_call>{"name": "g"}')
    assert text == ""
    assert [call["function"] for call in calls] == [
        {"name": "f", "arguments": '{"x": 1}'},
        {"name": "g", "arguments": "{}"},
    ]
    for broken in ("<tool_call>{", "<tool_call>[]</tool_call>", "<tool_call>{}</tool_call> text", "none"):
        assert toolcalls.split(broken) == (broken, [])
