"""A trace -> an HTML page that plays it, or a part of a notebook; and the page of a server. One player draws all three.

The parts are files of `unmask.assets`: a page holds its styles, its scripts and its data, so that it is one file and
loads nothing. Its Content-Security-Policy names the hash of its script and of its style: no other script can run.
"""

__all__ = ["live_page", "to_html", "to_notebook"]

import base64
import hashlib
import json
import re
from dataclasses import asdict
from functools import cache
from html import escape
from importlib import resources

from unmask.trace.events import Trace, position_texts, records, replay

_LEAST, _MOST = 300, 640  # height of a frame in a notebook, pixels


def to_html(trace: Trace, play: bool = False) -> str:
    """Trace -> an HTML page that plays it: one file, which needs neither the network nor this library.

    With `play` it begins to play when it is opened; where the reader's system asks for less motion, it shows the end.
    """
    data = {"header": asdict(trace.header), "events": records(trace.events), "play": play}
    # A "<" inside the text could end the element that holds the data; as an escape it is the same JSON.
    return _page("trace", json.dumps(data).replace("<", "\\u003c"))


def to_notebook(trace: Trace) -> str:
    """Trace -> an HTML element that plays it, for a notebook: a frame of its own, which cannot reach the notebook."""
    header = trace.header
    if header.columns is not None:
        lines = 1.6 * max(-(-len(row.start) // header.columns) for row in header.rows)
    else:
        texts = ["".join(position_texts(header, replay(trace, row))) for row in range(len(header.rows))]
        lines = max(sum(1 + len(line) // 72 for line in text.split("\n")) for text in texts)
    height = min(max(_LEAST, 240 + round(43 * lines)), _MOST)
    return (
        f'<iframe title="a text that is being written" sandbox="allow-scripts" width="100%" height="{height}" '
        f'frameborder="0" srcdoc="{escape(to_html(trace, play=True))}"></iframe>'
    )


@cache
def live_page() -> str:
    """-> the page that `unmask serve` shows at /: one file, which talks to the server that it came from alone."""
    return _page("live", "")


def _page(name: str, data: str) -> str:
    """Name of a page's own files in the assets, and its data as JSON -> the page."""
    style = "\n" + _text("player.css") + _text(f"{name}.css")
    script = "\n" + "".join(_text(part) for part in ("player.js", "controls.js", f"{name}.js"))
    parts = {"STYLE": style, "STYLES": _hash(style), "SCRIPT": script, "SCRIPTS": _hash(script), "TRACE": data}
    # All in one turn: what is put in may itself have such a word.
    return re.sub("__([A-Z]+)__", lambda match: parts[match[1]], _text(f"{name}.html"))


def _text(name: str) -> str:
    return (resources.files("unmask.assets") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The content of an inline script or style -> how a Content-Security-Policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
