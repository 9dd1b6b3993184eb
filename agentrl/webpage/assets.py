"""The page's own files: markup, styles and scripts, without any from elsewhere.

Scripts are plain ones, in the order of `SCRIPTS`, as browsers load no modules from
`file://`. They share the one object `agentrl`.
"""

import base64
import hashlib
import pathlib
from collections.abc import Sequence

FOLDER = pathlib.Path(__file__).with_name("static")
STYLES = ("page.css",)
SCRIPTS = (
    "dom.js",  # elements, numbers, colours
    "charts.js",  # lines, dots, bars
    "tables.js",
    "store.js",  # where data come from: this file, files beside it, or a server
    "overview.js",  # sections of one run
    "curves.js",
    "together.js",  # several runs
    "episodes.js",  # filters and the list of episodes
    "transcript.js",  # one episode, a group, a task over stages
    "main.js",
)
_TITLE, _HEAD, _DATA = "<!--title-->", "<!--head-->", "<!--data-->"
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


def read(name: str) -> str:
    """Returns one of the files."""
    return (FOLDER / name).read_text(encoding="utf-8")


def escape(text: str) -> str:
    """Returns text as it stands in markup."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def linked_page(title: str) -> str:
    """Returns the markup of a page whose files a server sends."""
    styles = [f'<link rel="stylesheet" href="static/{name}">' for name in STYLES]
    scripts = [f'<script defer src="static/{name}"></script>' for name in SCRIPTS]
    return _fill(title, "\n".join([*styles, *scripts]), "")


def whole_page(
    title: str,
    data: Sequence[tuple[str, str]],
    *,
    scripts: Sequence[str] = SCRIPTS,
) -> str:
    """Returns the markup of a page that needs nothing but itself.

    Args:
      title: of the page, as text.
      data: name and content of each block of data. A block is inert; the scripts read it
        by its name. It must not hold a `<`.
      scripts: files of the page's scripts, or scripts of another page on the same parts.

    Raises:
      ValueError: if a block holds a `<`, with which it could end itself.
    """
    for name, content in data:
        if "<" in content:
            raise ValueError(f"block {name!r} holds a '<'; write it as \\u003c.")
    styles = [read(name) for name in STYLES]
    texts = [read(name) for name in scripts]
    allowed = " ".join(_hash(text) for text in texts)
    policy = (
        f"default-src 'none'; script-src 'self' file: {allowed}; "
        f"style-src {' '.join(_hash(text) for text in styles)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        *(f"<style>{text}</style>" for text in styles),
    ]
    blocks = [
        f'<script type="application/json" id="{escape(name)}">{content}</script>'
        for name, content in data
    ]
    blocks += [f"<script>{text}</script>" for text in texts]
    return _fill(title, "\n".join(head), "\n".join(blocks))


def _fill(title: str, head: str, data: str) -> str:
    page = read("page.html").replace(_TITLE, escape(title), 1)
    before, _, rest = page.partition(_HEAD)
    middle, _, after = rest.partition(_DATA)
    return f"{before}{head}{middle}{data}{after}"


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
