"""The hops from the command to the loss, as docs/architecture.md counts them."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def calls(function):
    """Last names of what a function calls."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", ""))


def test_each_hop_calls_the_next():
    page = (ROOT / "docs" / "architecture.md").read_text()
    hops = re.findall(r"^\| \d \| `([\w.]+)` \|", page, re.MULTILINE)
    assert len(hops) == 6 and hops[0] == "launch.train.main"
    names = [hop.rpartition(".")[2] for hop in hops]
    for hop, following in zip(hops, [*names[1:], "_make_loss"], strict=True):
        module, _, name = hop.rpartition(".")
        path = ROOT / "agentrl" / f"{module.replace('.', '/')}.py"
        (function,) = (
            node
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef) and node.name == name
        )
        assert following in set(calls(function)), f"{hop} does not call {following}"
