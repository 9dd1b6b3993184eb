"""The page in a browser: it draws itself, asks for nothing, and can be clicked through."""

import dataclasses
import threading
import urllib.parse

import browser
import fake_run
import pytest

from agentrl import types
from agentrl.envs import base
from agentrl.live import server, watched
from agentrl.statistics import results
from agentrl.transcripts import episodes, failures
from agentrl.webpage import report, run_data

pytestmark = pytest.mark.slow

ATTACK = "</pre><img src=x onerror=alert(1)><script>alert(2)</script>"


def write_run(workdir, *, seed=0, last=1.0):
    settings = dataclasses.replace(
        fake_run.make_settings(), seed=seed, name=f"run {ATTACK}"
    )
    fake_run.write_run(workdir, settings)
    fake_run.make_result("both", 24, "textcraft", last).save(workdir)
    for stage, actions in (
        ("warm", ("look", "look")),
        ("both", ("look", f"get {ATTACK}")),
    ):
        stored = [
            episodes.from_trajectory(
                fake_run.make_trajectory(
                    item=3,
                    group=3,
                    sample=sample,
                    success=sample > 2,
                    ending=None if sample else types.Ending.FAILED,
                    actions=actions,
                    observations=("Goal: craft stick.", ATTACK),
                    final=ATTACK,
                ),
                stage=stage,
                iteration=8,
                env_config=base.EnvConfig(),
            )
            for sample in range(8)
        ]
        stored[-1] = with_tokens(stored[-1])
        path = workdir / episodes.FOLDER / f"evaluation.{stage}.textcraft.jsonl"
        episodes.append(path, map(failures.tag, stored))
    return workdir


def with_tokens(stored):
    """The episode as if a token had four letters, the last ones unlikely and good."""
    turns = []
    for turn in stored.turns:
        count = -(-len(turn.action) // 4)
        numbers = {
            "lengths": [4] * (count - 1) + [len(turn.action) - 4 * (count - 1), 0],
            "logprobs": [-0.01] * (count - 1) + [-4.0, -0.5],
            "advantages": [0.0] * (count - 1) + [1.5, -1.5],
            "weights": 1.0,
            "ratios": [1.0] * (count - 1) + [0.6, 1.0],
            "entropies": [0.1] * (count - 1) + [2.0, 0.3],
        }
        turns.append(dataclasses.replace(turn, tokens=numbers))
    return dataclasses.replace(stored, turns=tuple(turns))


@pytest.fixture(scope="module")
def chromium():
    with browser.open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = write_run(tmp_path_factory.mktemp("runs") / "first")
    report.write([workdir], workdir / report.FILE)
    return workdir


@pytest.fixture
def visit(chromium):
    opened = []

    def go(url, **fields):
        opened.append(browser.Visit(chromium, **fields))
        opened[-1].page.goto(url)
        return opened[-1]

    yield go
    for one in opened:
        assert one.problems == []
        one.close()


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_draws_itself_without_requests(visit, run, width, scheme):
    one = visit(f"file://{run}/report.html", width=width, scheme=scheme)
    page = one.page

    page.wait_for_selector("#training svg path.line", state="attached")
    page.wait_for_selector("#results svg circle")

    assert one.requests == [f"file://{run}/report.html"]
    assert one.fits()
    assert page.inner_text("h1") == f"run {ATTACK}"
    assert page.locator("#tasks rect.won").count() == 20  # ten tasks of two panels
    assert "10 won" in page.inner_text("#tasks")
    # Reinforcement begins at 0 of its own axis, the warm start has charts of its own.
    success = page.locator("#training .card").filter(has_text="Success").first
    names = success.locator("text.part > title").all_text_contents()
    assert names == ["textcraft", "both"]
    assert "warm" in page.locator("#training .card").last.inner_text()


def test_a_path_through_the_viewer(visit, run):
    page = visit(f"file://{run}/report.html").page
    page.click("nav.top >> text=Episodes")
    page.wait_for_selector(".viewer .row")
    assert "112 of 112 episodes" in page.inner_text(".list .count")

    page.select_option("[data-filter=stage]", "both")
    page.select_option("[data-filter=kind]", "evaluation")
    page.wait_for_function("document.querySelectorAll('.row').length == 8")
    page.select_option("[data-filter=ending]", "failed")
    page.wait_for_function("document.querySelectorAll('.row').length == 1")
    page.click(".row")
    page.wait_for_selector(".turn pre.action")
    # Hostile text is text: of the attack nothing but letters is in the page.
    assert ATTACK in page.locator("pre.action").nth(1).inner_text()
    assert page.locator("main img").count() == page.locator("main script").count() == 0
    page.click("[data-do=step]")
    page.wait_for_function("document.querySelectorAll('pre.action').length == 1")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector('[data-turn="1"]')
    page.click("[data-tab=group]")
    page.wait_for_function("document.querySelectorAll('.column').length == 8")
    assert "5 of 8 episodes" in page.inner_text(".detail")
    page.click("[data-tab=task]")
    page.wait_for_selector(".difference")
    assert page.locator(".column").count() == 2  # the warm start and the last stage
    place = (
        page.locator(".column").nth(1).locator(".differs").get_attribute("data-turn")
    )
    assert place == "1"  # both look first
    page.go_back()
    page.wait_for_function("document.querySelectorAll('.column').length == 8")


def test_tokens_are_coloured_by_what_is_stored_of_them(visit, run):
    page = visit(f"file://{run}/report.html#view=episodes&n=111").page
    page.wait_for_selector("[data-do=color]")
    choices = page.locator("[data-do=color] option").all_inner_texts()
    assert choices == ["plain", "mask: what is trained on", "log-probability", "advantage",
                       "ratio of probabilities, after to before the update",
                       "entropy"]  # fmt: skip
    assert page.locator(".token").count() > 5  # the mask, by token

    page.select_option("[data-do=color]", "logprob")
    page.wait_for_function("location.hash.includes('color=logprob')")
    likely = page.locator(".turn >> nth=0").locator(".token").first
    unlikely = page.locator(".turn >> nth=0").locator(".token").nth(-2)
    opacity = (
        "e => parseFloat(getComputedStyle(e).backgroundColor.match(/[\\d.]+\\)$/)[0])"
    )
    assert likely.evaluate(opacity) < 0.05 < 0.5 < unlikely.evaluate(opacity)
    unlikely.hover()
    assert "log-probability \N{MINUS SIGN}4.000 (1.8 %)" in page.inner_text(".tooltip")
    page.select_option("[data-do=color]", "advantage")
    page.wait_for_function("location.hash.includes('color=advantage')")
    stop = page.locator(".turn >> nth=0").locator(".token.stop")
    tints = {one.evaluate("e => e.style.backgroundColor") for one in (unlikely, stop)}
    assert len(tints) == 2 and any("--down" in tint for tint in tints)
    page.select_option("[data-do=color]", "ratio")
    page.wait_for_function("location.hash.includes('color=ratio')")
    assert "--down" in unlikely.evaluate("e => e.style.backgroundColor")
    unlikely.hover()
    assert "ratio 0.600" in page.inner_text(".tooltip")
    page.select_option("[data-do=color]", "entropy")
    page.wait_for_function("location.hash.includes('color=entropy')")
    assert likely.evaluate(opacity) < 0.05 < 0.5 < unlikely.evaluate(opacity)


def test_text_is_searched_and_rewards_filter(visit, run):
    page = visit(f"file://{run}/report.html#view=episodes").page
    page.wait_for_selector(".row")

    page.fill("[data-filter=text]", "ONERROR=")
    page.press("[data-filter=text]", "Enter")
    page.wait_for_selector("text=16 episodes found, 112 of 112 read")
    page.fill("[data-filter=least]", "0.5")
    page.press("[data-filter=least]", "Enter")
    page.wait_for_selector("text=10 episodes found")


def test_episodes_beside_the_page_are_loaded_when_looked_at(
    visit, tmp_path, monkeypatch
):
    workdir = write_run(tmp_path / "run")
    monkeypatch.setattr(report, "EMBEDDED_BYTES", 10)
    monkeypatch.setattr(report, "CHUNK", 20)
    report.write([workdir], workdir / report.FILE)

    one = visit(f"file://{workdir}/report.html#view=episodes&n=5")
    one.page.wait_for_selector(".turn pre.action")
    assert one.requests[1:] == [f"file://{workdir}/report_data/episodes_0_0000.js"]
    (workdir / "report_data" / "episodes_0_0001.js").unlink()
    one.page.goto(f"file://{workdir}/report.html#view=episodes&n=25")
    one.page.wait_for_selector("text=which is not beside this page")
    assert all("ERR_FILE_NOT_FOUND" in problem for problem in one.problems)
    one.problems.clear()


def test_two_runs_are_compared(visit, run, tmp_path):
    other = write_run(tmp_path / "second", seed=1, last=0.5)
    report.write([run, other], tmp_path / "two.html")

    one = visit(f"file://{tmp_path}/two.html")
    page = one.page

    page.wait_for_selector("#comparison svg circle")
    assert one.fits() and len(one.requests) == 1
    assert "second minus first" in page.inner_text("#comparison")
    assert "0 won" in page.inner_text("#comparison")
    assert "mean of 2 seeds" in page.inner_text("#training")
    assert "this recipe" in page.inner_text("#part-groups")
    page.locator("#comparison rect.target").first.click()
    page.wait_for_function("location.hash.includes('run=1')")
    page.wait_for_selector(".viewer .row, .viewer .card")
    page.click("nav.top >> text=second")
    page.wait_for_selector("#results")


@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_shown_that_is_not_there_yet(visit, tmp_path, width):
    workdir = write_run(tmp_path / "run")
    for folder in (results.FOLDER, episodes.FOLDER):
        for path in (workdir / folder).iterdir():
            path.unlink()
    report.write([workdir], workdir / report.FILE)

    page = visit(f"file://{workdir}/report.html", width=width).page
    page.wait_for_selector("#training svg")
    assert page.locator("#results").count() == 0
    page.goto(f"file://{workdir}/report.html#view=episodes")
    page.wait_for_selector("text=No episodes are stored yet")


def test_a_live_page_follows_its_run(visit, tmp_path):
    workdir, settings = tmp_path / "run", fake_run.make_settings()
    fake_run.write_run(workdir, settings)
    for path in (workdir / results.FOLDER).iterdir():
        path.unlink()
    fake_run.write_iterations(workdir, settings, first=10, last=11)  # cuts the rest
    runs = watched.Watched([run_data.RunData(workdir)])
    served = server.Server(runs)
    runs.start()
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        one = visit(served.url)
        page = one.page
        page.wait_for_selector(".status.live >> text=textcraft 3/8")
        assert "token" not in page.url
        assert page.locator("#results").count() == 0
        page.locator("#costs table").scroll_into_view_if_needed()
        before = page.evaluate(
            "document.getElementById('costs').getBoundingClientRect().y"
        )
        fake_run.write_iterations(workdir, settings, first=11, last=13)
        page.wait_for_selector(".status.live >> text=textcraft 5/8")
        page.wait_for_timeout(400)
        after = page.evaluate(
            "document.getElementById('costs').getBoundingClientRect().y"
        )
        assert abs(after - before) < 150  # the episodes' rows came in above it
        fake_run.write_iterations(workdir, settings, first=13, last=14)
        fake_run.make_result("warm", 8, "textcraft", 0.25).save(workdir)
        page.wait_for_selector(".status.live >> text=textcraft 6/8")
        page.wait_for_selector("#results svg circle")
        assert page.locator("#latest tbody tr").count() == 8
        page.click("nav.top >> text=Episodes")
        page.wait_for_selector("text=24 of 24 episodes")
        fake_run.write_iterations(workdir, settings, first=14, last=15)
        page.click("text=Show 4 new episodes")
        page.wait_for_selector("text=28 of 28 episodes")
        page.click(".row >> nth=0")
        page.wait_for_selector(".turn pre.action")
        asked = {urllib.parse.urlsplit(url).netloc for url in one.requests}
        assert asked == {f"127.0.0.1:{served.server_address[1]}"}
        page.context.set_offline(True)
        page.wait_for_selector(".status.lost >> text=does not answer")
        assert all("ERR_INTERNET_DISCONNECTED" in text for text in one.problems)
        one.problems.clear()
        page.goto("about:blank")  # it asks no more
    finally:
        served.shutdown()
        served.server_close()
        runs.stop()
