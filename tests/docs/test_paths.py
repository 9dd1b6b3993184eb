"""Files and modules that the pages name are there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "BUILD.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docs" / "decisions" / "0007-rooms-and-budgets.md",
]
FOLDERS = ("agentrl", "benchmarks", "docs", "envs", "experiments", "launch", "tests")
ROOMS = sorted(path.name for path in (ROOT / "agentrl").glob("[a-z]*/"))
# What a page tells its reader to write, or what a run makes.
EXAMPLES = {"experiments/mine.py"}


def named_paths(text):
    """Paths in backticks: of the repository, or of a module by its room."""
    for quoted in re.findall(r"`([\w./-]+)`", text):
        first = quoted.split("/")[0]
        if "/" in quoted and "*" not in quoted and quoted not in EXAMPLES:
            if first in FOLDERS:
                yield ROOT / quoted
            elif first in ROOMS and quoted.endswith((".py", "/")):
                yield ROOT / "agentrl" / quoted


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_paths_on_pages_exist(page):
    missing = [path for path in named_paths(page.read_text()) if not path.exists()]
    assert missing == []


@pytest.mark.parametrize("script", ["Makefile", ".ci/test-versions"])
def test_tests_that_scripts_name_exist(script):
    named = re.findall(r"\btests/[\w./]+", (ROOT / script).read_text())
    assert named and [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_between_pages_exist(page):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text())
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_the_tree_of_the_readme_has_every_room():
    tree = (ROOT / "README.md").read_text().partition("## The tree")[2]
    rooms = [*ROOMS, *(path.name for path in (ROOT / "agentrl").glob("[a-z]*.py"))]
    assert [room for room in rooms if room not in tree] == []
