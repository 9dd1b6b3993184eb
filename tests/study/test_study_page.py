"""The page of a study in a browser; AGENTRL_SCREENSHOTS=FOLDER keeps the pictures."""

import itertools
import os
import pathlib

import browser
import pytest
import small_study

from agentrl.experiments.generalization import study
from agentrl.findings import gather
from agentrl.study import folder, graph
from agentrl.study_page import page

pytestmark = pytest.mark.slow

AXES = ("across", "sequence")


def write_page(root):
    """A page of all five environments, made of made-up numbers."""
    made = study.get_study("laptop", ()).select(AXES, (0, 1))
    wanted, place = graph.build(made), folder.Folder(root)
    place.claim_study(made, wanted, write=True)
    small_study.leave_all(place, wanted)
    return page.write(gather.gather(made, place, wanted))


def test_the_page_fits_a_desk_and_a_telephone_light_and_dark(tmp_path):
    address = write_page(tmp_path / "study").as_uri()
    pictures = pathlib.Path(os.environ.get("AGENTRL_SCREENSHOTS", tmp_path))
    brightness = {}
    with browser.open_browser() as opened:
        for width, scheme in itertools.product((1400, 390), ("light", "dark")):
            visit = browser.Visit(opened, width=width, scheme=scheme)
            visit.page.goto(address)
            name = f"study_{width}_{scheme}.png"
            visit.page.screenshot(path=pictures / name, full_page=True)
            assert visit.fits() and not visit.problems
            assert visit.requests == [address]
            cut = "x => x.scrollWidth > x.clientWidth"
            matrix = visit.page.locator("section:nth-of-type(2) .scroll").first
            assert matrix.evaluate(cut) == (width < 1000)  # scrolls by itself
            color = visit.page.evaluate("getComputedStyle(document.body).background")
            brightness[width, scheme] = color.partition(")")[0]
            visit.close()
    assert brightness[390, "dark"] == brightness[1400, "dark"]
    assert brightness[390, "dark"] != brightness[390, "light"]
