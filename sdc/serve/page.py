"""The page at `/`: one file, whose style and script are all that a browser is to run or load."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files


class Page:
    """The page and its headers; the policy names style and script by their SHA-256."""

    def __init__(self) -> None:
        text = files("sdc.serve").joinpath("page.html").read_text(encoding="utf-8")
        style, script = (_digest(text, tag) for tag in ("style", "script"))
        self.html = text.encode()
        policy = (
            f"default-src 'none'; style-src {style}; script-src {script}; img-src 'self' blob: data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self.headers = {
            "content-security-policy": policy, "referrer-policy": "no-referrer", "cache-control": "no-cache",
        }  # fmt: skip


def _digest(text: str, tag: str) -> str:
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
