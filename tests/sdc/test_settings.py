"""Settings: what is recorded of them, and fields that are declared once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sdc.settings import defaults, essential, fields_of, option, recorded, value_type


@dataclass(frozen=True)
class Old:
    size: int = 3
    name: str = "a"


@dataclass(frozen=True)
class New(Old):
    warmup: float | None = option(0.5, "Share of the steps.")


def test_only_what_differs_from_its_default_is_recorded():
    assert recorded(New()) == {}
    assert recorded(New(size=4)) == {"size": 4}
    assert recorded(New(warmup=None), always=("name",)) == {"name": "a", "warmup": None}


def test_records_from_before_a_field_was_there_are_equal():
    before, since = vars(Old(size=4)), recorded(New(size=4))
    assert essential(before, defaults(New)) == essential(since, defaults(New)) == {"size": 4}
    assert essential(before, defaults(New)) != essential(recorded(New(size=4, warmup=1)), defaults(New))


def test_fields_are_taken_over_from_another_dataclass():
    @dataclass(frozen=True)
    @fields_of(New, required=("size",))
    class Derived:
        out: str = "x"

    assert vars(Derived()) == {"out": "x", "size": 3, "name": None, "warmup": None}
    assert value_type(Derived, "warmup") is float
    assert fields(Derived)[-1].metadata["help"] == "Share of the steps."
