"""The types of index by name: a new one is a file that defines `INDEX_TYPE`, an `IndexType`, and a line here."""

from __future__ import annotations

from importlib import import_module

from sdc.errors import unknown_name_error
from sdc.retrieve.index.index_types.base import IndexType

# A type by its name: the module that defines it, or, where other code adds its own, the type itself.
INDEX_TYPES: dict[str, str | IndexType] = {
    "flat": "sdc.retrieve.index.index_types.flat",
    "ivf": "sdc.retrieve.index.index_types.ivf",
}
AUTO = "auto"  # the fastest of them that reaches the recall


def index_type_names() -> tuple[str, ...]:
    """What `--index-type` takes."""
    return (AUTO, *INDEX_TYPES)


def load_index_type(name: str) -> IndexType:
    """Raises UsageError where there is no type of this name."""
    if name not in INDEX_TYPES:
        raise unknown_name_error("index type", name, index_type_names())
    entry = INDEX_TYPES[name]
    if isinstance(entry, str):
        loaded: IndexType = import_module(entry).INDEX_TYPE
        return loaded
    return entry


def load_index_types() -> list[IndexType]:
    """All types, in the order of `INDEX_TYPES`."""
    return [load_index_type(name) for name in INDEX_TYPES]


def index_type_help() -> str:
    """What the types are, for `sdc encode --help`."""
    types = "  ".join(f"{each.name}: {each.help}" for each in load_index_types())
    return f"{types}  auto: whichever reaches --recall faster, measured on these codes."


def search_option_help(name: str) -> str:
    """What a search option does, for `sdc search --help`."""
    return next(each.options[name] for each in load_index_types() if name in each.options)
