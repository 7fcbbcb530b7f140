"""Errors are short: a list is shown by its first items, long names without their middle, addresses whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sdc.errors import LONGEST, SdcError, UsageError, few, shortened, unknown_name_error

PATH = "/a/folder/" + "of/many/others/" * 12 + "feats.h5"


@given(st.text(max_size=2000))
def test_no_error_is_longer_than_three_hundred(text: str) -> None:
    for kind in (SdcError, UsageError):
        message = str(kind(text))
        assert len(message) <= LONGEST
        assert message == text or len(text) > LONGEST


def test_a_short_error_is_left_as_it_is() -> None:
    message = f"cannot read {PATH[:200]}: no permission"
    assert str(SdcError(message)) == message


def test_long_paths_are_cut_before_words_and_addresses() -> None:
    address = "https://example.org/" + "a-long-name-of-a-file/" * 4 + "model.safetensors"
    message = str(SdcError(f"cannot get {PATH} and {PATH}.changes: fetch {address} elsewhere and give --weights FILE"))
    assert len(message) <= LONGEST
    assert message.startswith("cannot get /a/folder/of")
    assert "feats.h5 and /a" in message
    assert message.endswith(f": fetch {address} elsewhere and give --weights FILE")


def test_a_list_is_its_first_items_and_a_count() -> None:
    assert few(["a", "b"]) == "a, b"
    assert few([]) == ""
    assert few(range(1000), "; ", 10) == "0; 1; 2; 3 and 996 more"
    assert few(["x" * 500, "b"], most=50) == f"{shortened('x' * 500, 25)}, b"
    assert len(str(unknown_name_error("data set", "y" * 900, [f"name {number}" for number in range(900)]))) <= LONGEST


def test_a_text_is_shortened_in_its_middle() -> None:
    assert shortened("abcdefgh", 8) == "abcdefgh"
    assert shortened("abcdefghi", 8) == "abc…fghi"
