"""The program in docs/tutorial.md prints what the page shows."""

import contextlib
import io
import pathlib
import re

import jax
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run_page():
    """Code blocks, what each printed, and what the page shows behind it."""
    scope, ran = {"__name__": "tutorial"}, []
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language == "text":
            code, printed, _ = ran[-1]
            ran[-1] = (code, printed, text)
            continue
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(text, str(PAGE), "exec"), scope)
        ran.append((text, output.getvalue(), ""))
    return ran


@pytest.fixture
def broadcasting():
    """Readers' programs run with JAX's usual rules."""
    with jax.numpy_rank_promotion("allow"):
        yield


def test_the_page_shows_what_its_program_prints(broadcasting):
    ran = run_page()
    assert len(ran) == 7
    for code, printed, shown in ran:
        assert printed == shown, code
