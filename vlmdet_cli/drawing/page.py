"""The report page: data in, one HTML text out, which needs no network and no other script.

The page's own files lie in ``page_files``: a frame, a style, and plain JavaScript files that share one scope, in the
order of ``SCRIPTS``. They become part of the page, and its content security policy allows just them, by their hashes.
The data stand in the page as JSON, which no browser runs; the script makes text nodes of every name and answer.

The data, by column; boxes are xyxy in pixels, those of a picture lie together:

    {"compared": true, "scored": true, "score_range": [0, 1], "iou": 0.5, "names": ["cat", …],
     "pictures": {"name": […], "size": [[640, 480], …], "gone": ["" or why, …], "remark": […], "answered": [1, …],
                  "answers": [[{"text", "prompt", "finish", "health", "problems": [[kind, text], …]}], …]},
     "objects": {"picture": […], "label": […], "box": [x1, y1, x2, y2, …], "kind": [0 target, 1 crowd, 2 ignored],
                 "area": […]},
     "predictions": {"picture", "label", "box", "score": […], "searched": [1, …]},
     "images": {"large": [1 where pictures/ has a larger file than thumbs/, …], "embedded": [data URL, …] or null},
     "runs": [earlier, later] and "other": {"predictions", "report", "answers", "answered"} of the earlier,
                  where two are compared,
     "report": the report of ``eval`` or null, "curve": address or null, "left_out": pictures, "notes": [sentence, …]}
"""

import base64
import json
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from importlib import resources
from string import Template
from typing import Any

SCRIPTS = (
    "matching.js", "measures.js", "dom.js", "charts.js", "state.js", "pictures.js", "overlay.js", "gallery.js",
    "large.js", "summary.js", "main.js",
)  # fmt: skip
MARK = '<meta name="generator" content="vlmdet viz">'


def render(title: str, data: Mapping[str, Any]) -> str:
    """The whole HTML document."""
    style, script = _file("page.css"), "\n".join(map(_file, SCRIPTS))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src 'self' data: file:; base-uri 'none'; form-action 'none'"
    )
    return Template(_file("page.html")).substitute(
        policy=policy, title=escape(title), style=style, script=script, data=_json(data)
    )


def _file(name: str) -> str:
    return (resources.files(__package__) / "page_files" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


def _json(data: Mapping[str, Any]) -> str:
    """In ASCII, and without ``<``, so that no name can end the element that holds it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
