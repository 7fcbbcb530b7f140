"""Settings: how an option is declared once, what files record of it, and how two records are compared.

A stage's settings are a frozen dataclass. Its fields, made by `option`, carry the help text from which the command's
options are built. A file records the fields that it always has, and of those added later only what differs from the
default; what a record does not name has the default. So a new field changes neither the bytes nor the fingerprints of
what does not use it, and files made before it was there are not taken for files of other settings.

The default of a field that is not always recorded must therefore never change: it is what older files mean.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Collection, Iterable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from sdc.errors import UsageError


def option(default: Any, help: str | None = None, *, choices: Collection[str] = (), metavar: str | None = None) -> Any:
    """A field of a settings dataclass.

    Args:
        default: its value where none is given.
        help: the text of `--help`.
        choices: the names it may have; none where it is no name.
        metavar: what stands for the value in `--help`, such as TIME or RATIO.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "metavar": metavar})


def either(names: Iterable[str]) -> str:
    """Names as a text: `a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def defaults(*kinds: Any) -> dict[str, Any]:
    """The defaults of the fields of settings dataclasses, or of instances of them, by name; of a later one first."""
    return {
        field.name: field.default
        for kind in kinds
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }


def recorded(settings: Any, always: Collection[str] = ()) -> dict[str, Any]:
    """What files record of settings: the fields named in `always`, and those that differ from their defaults."""
    return essential(vars(settings), defaults(settings), always)


def essential(record: Mapping[str, Any], default: Mapping[str, Any], always: Collection[str] = ()) -> dict[str, Any]:
    """A record without what equals its default: records of the same settings by two versions are equal then.

    Args:
        record: as `recorded` gives it, by this version or by one that recorded more.
        default: the `defaults` of its settings.
        always: the names that stay in any case.
    """
    return {
        name: value for name, value in record.items() if name in always or name not in default or value != default[name]
    }


def value_type(kind: Any, name: str) -> Any:
    """The type of a field of a settings dataclass, e.g. float for `float | None`."""
    hint = get_type_hints(kind)[name]
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    return hint


def checked_value(name: str, value: Any, kind: Any) -> Any:
    """A value from Python as a setting of some type; one of NumPy becomes Python's.

    Args:
        kind: int, float, bool or str, or such a type or None.

    Raises:
        UsageError: it is of another type.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    plain = value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value
    for each in kinds:
        if plain is None and each is type(None):
            return None
        fits = isinstance(plain, _EXPECTED[each][0]) if each in _EXPECTED else False
        if fits and (each is bool or not isinstance(plain, bool)):
            return plain
    expected = either(_EXPECTED[each][1] for each in kinds if each in _EXPECTED)
    raise UsageError(f"{name} = {value!r}: expected {expected}, found {type(value).__name__}")


def whole_number(name: str, value: Any) -> int:
    """A whole number from Python. Raises UsageError where it is none."""
    return checked_value(name, value, int)  # type: ignore[no-any-return]


# What stands for a type, and what to call it.
_EXPECTED: dict[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a name"),
}


def fields_of(source: Any, required: Collection[str] = ()) -> Any:
    """A class decorator, to stand below `@dataclass`: adds the fields of the settings dataclass `source`.

    Those in `required` are taken as they are. The others may be None, their default, which means "not given".
    """

    def add(target: Any) -> Any:
        hints = get_type_hints(source)
        for field in dataclasses.fields(source):
            given = field.name in required
            target.__annotations__[field.name] = hints[field.name] if given else hints[field.name] | None
            default = field.default if given else None
            setattr(target, field.name, dataclasses.field(default=default, metadata=field.metadata))
        return target

    return add
