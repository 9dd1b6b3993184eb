"""Reads what a frozen page holds, without a browser."""

import base64
import gzip
import html.parser
import json
import re


class Page(html.parser.HTMLParser):
    """Checks that tags close, and keeps links, scripts and blocks of data."""

    VOID = ("meta", "br")

    def __init__(self, path):
        super().__init__()
        self.open, self.links, self.scripts, self.blocks = [], [], [], {}
        self.policy = ""
        self.feed(path.read_text())
        self.close()
        assert not self.open
        self.state = json.loads(self.blocks["state"])

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.links += [v for k, v in attrs if k in ("src", "href")]
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]
        if tag not in self.VOID:
            self.open.append((tag, named))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "script":
            named = self.open[-1][1]
            if "id" in named:
                self.blocks[named["id"]] = self.blocks.get(named["id"], "") + data
            elif data.strip():
                self.scripts.append(data)

    def unpack(self, name):
        return unpack(self.blocks[name])


def unpack(text):
    return json.loads(gzip.decompress(base64.b64decode(text)))


def chunk_of(path):
    """The episodes in a file of the folder beside a page."""
    name, packed = re.fullmatch(
        r'agentrl\.receiveChunk\("(\w+)", "([^"]+)"\); // \w{8}\n', path.read_text()
    ).groups()
    assert name == path.stem
    return unpack(packed)
