"""The host names that the service answers to.

A web page can give its own name the address of a service on the visitor's machine, and then ask it as if it were its
own (DNS rebinding). The browser says that name in the Host header, so names that are not known are refused.
"""

from __future__ import annotations

import ipaddress
import re

from sdc.errors import UsageError

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,252}[a-z0-9_.])?")


class AllowedHosts:
    """The host names that are allowed.

    Args:
        names: beside localhost and any address, which no page can take for its name.
        checked: False answers to any name.
    """

    def __init__(self, *names: str, checked: bool) -> None:
        self._names, self._checked = {"localhost", *map(_plain, names)}, checked

    def knows(self, host: str) -> bool:
        """Whether a Host header names this service."""
        if not self._checked:
            return True
        name = _plain(re.sub(r":\d*$", "", host.strip()))
        return name in self._names or is_address(name.removeprefix("[").removesuffix("]"))


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def check(name: str) -> None:
    """Raises UsageError unless it is a host's name."""
    if not _NAME.fullmatch(_plain(name)):
        raise UsageError(f"--allow-host {name}: expected a name alone, such as search.example.org")


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")
