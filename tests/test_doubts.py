"""What an answer says, against what its rows can vouch for: on arbitrary claims."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.errors import BadAnswer
from producer.events import Event, Noticed
from producer.zendesk.doubts import Doubts, Notices
from producer.zendesk.page import Slice, slice_page

START = 1_000


def examine() -> tuple[Doubts, list[Event]]:
    events: list[Event] = []
    return Doubts(frozenset({"acme.zendesk.com"}), Notices(events.append)), events


def answer(stamps: list[int], **says: object) -> Slice:
    tickets = [{"id": number, "generated_timestamp": stamp} for number, stamp in enumerate(stamps)]
    return slice_page(json.dumps({"tickets": tickets, **says}).encode())


@given(
    st.lists(st.integers(START, START + 20), min_size=1, max_size=12).map(sorted),
    st.none() | st.integers(0, START + 100) | st.integers(),  # of any size: milliseconds, and nonsense
    st.booleans(),
)
def test_no_claimed_end_time_moves_past_what_was_not_shown(stamps: list[int], claimed: int | None, ended: bool) -> None:
    doubts, _ = examine()
    end_time = doubts.end_time(START, START, answer(stamps, end_time=claimed, end_of_stream=ended))
    assert START <= end_time <= stamps[-1] + (not ended and stamps[0] == stamps[-1])


@given(st.lists(st.integers(START, START + 20), min_size=1, max_size=12))
def test_rows_out_of_order_are_read_again(stamps: list[int]) -> None:
    doubts, events = examine()
    end_time = doubts.end_time(START, START, answer(stamps, end_time=max(stamps), end_of_stream=False))
    out_of_order = [later for n, later in enumerate(stamps) if later < max(stamps[:n], default=0)]
    assert end_time == min([max(stamps), *out_of_order])
    assert [event.kind for event in events if isinstance(event, Noticed)] == ["order"] * bool(out_of_order)


@pytest.mark.parametrize(("stamp", "known"), [(START - 5, True), (START - 6, False)])
def test_a_row_before_the_start_time_is_judged_as_far_as_the_map_reaches(stamp: int, known: bool) -> None:
    doubts, events = examine()
    cut = answer([stamp, START + 1], end_time=START + 1, end_of_stream=True)
    if known:
        assert doubts.end_time(START - 5, START, cut) == START + 1
        assert isinstance(events[0], Noticed)
        assert events[0].kind == "before_start_time"
    else:
        with pytest.raises(BadAnswer, match="whether it was published is not known"):
            doubts.end_time(START - 5, START, cut)


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ({"next_page": "https://acme.zendesk.com/api/v2/incremental/tickets.json?start_time=1"}, []),
        ({"after_url": "https://elsewhere.example/api"}, ["next_page"]),
        ({"next_page": "https://elsewhere.example/api"}, ["next_page"]),
        ({"next_page": None}, []),
        ({"next_page": "no address at all"}, []),
        ({"next_page": "https://[broken"}, []),
        ({"next_page": 7, "count": "many"}, []),
    ],
)
def test_a_link_to_another_host_is_told_and_whatever_else_it_is_harms_nothing(
    says: dict[str, object], told: list[str]
) -> None:
    doubts, events = examine()
    doubts.look_at(answer([START], **says))
    assert [event.kind for event in events if isinstance(event, Noticed)] == told


def test_an_oddity_is_told_in_words_once_and_counted_each_time() -> None:
    doubts, events = examine()
    for _ in range(3):
        doubts.look_at(answer([START], next_page="https://elsewhere.example/"))
    assert [event.again for event in events if isinstance(event, Noticed)] == [False, True, True]


def test_a_count_that_disagrees_is_believed_until_it_has_disagreed_three_times_in_a_row() -> None:
    doubts, _ = examine()
    wrong, right = answer([START], count=2), answer([START], count=1)
    assert [doubts.damaged(cut) for cut in (wrong, right, wrong, wrong, wrong, wrong, right, wrong)] == [
        *(True, False),
        *(True, True, False, False),
        *(False, True),
    ]
