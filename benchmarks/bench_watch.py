r"""What a live page costs: a generated run, a server, a browser or a client that polls.

  python -m benchmarks.bench_watch
  python -m benchmarks.bench_watch --iterations=2000 --episodes=200000 --browser

Prints the seconds until the first answer and until all episodes are indexed, the share of
one core that the server uses while it is polled, with the run at rest and growing by an
iteration a second, and, with --browser (needs Playwright and Chromium), the time to the
first paint and to the list of episodes. Then the same of the frozen page.
"""

import argparse
import http.client
import importlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from agentrl.webpage import report
from benchmarks import generated_run

POLL_S = 2.0  # as the page does


def main() -> None:
    """Measures one size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--episodes", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--browser", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(pathlib.Path(folder) / "run", arguments)


def measure(workdir: pathlib.Path, arguments: argparse.Namespace) -> None:
    """Writes a run, serves it, and prints what that costs."""
    settings = generated_run.make_settings(arguments.iterations)
    played = sum(s.num_iterations for s in settings.stages if not s.supervised)
    per_iteration = max(1, arguments.episodes // played)
    growing = generated_run.Generator(workdir, settings).iterations(
        episodes_per_iteration=per_iteration
    )
    total = sum(stage.num_iterations for stage in settings.stages)
    kept = int(arguments.seconds) + 5  # iterations for the run to grow by
    for _ in range(total - kept):
        next(growing)
    size = sum(path.stat().st_size for path in workdir.rglob("*.jsonl"))
    print(f"{total - kept} iterations, {size / 1e6:.0f} MB of files", flush=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "agentrl.launch.watch", "--port=0",
         f"--workdir={workdir}"],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        started = time.perf_counter()
        url = process.stdout.readline().split()[1]
        print(f"address printed after {time.perf_counter() - started:.2f} s")
        client = Client(url)
        _measure_start(client)
        at_rest = _measure_polling(client, process.pid, arguments.seconds, lambda: None)
        print(f"polled at rest: {at_rest:.2%} of a core")
        grown = _measure_polling(
            client, process.pid, arguments.seconds, lambda: next(growing)
        )
        print(f"polled while it grows, an iteration a second: {grown:.2%} of a core")
        if arguments.browser:
            _measure_browser(url)
    finally:
        process.terminate()
        process.wait()
    _measure_report(workdir, browser=arguments.browser)


class Client:
    """Polls as the page does."""

    def __init__(self, url: str):
        address, self._token = url.split("/?token=")
        self._host = address.removeprefix("http://")
        self._have = ""

    def poll(self) -> tuple[int, dict]:
        """Returns bytes and content of what has changed."""
        connection = http.client.HTTPConnection(self._host, timeout=60)
        headers = {"Authorization": f"Bearer {self._token}"}
        connection.request("GET", f"/api/state?have={self._have}", headers=headers)
        content = connection.getresponse().read()
        connection.close()
        state = json.loads(content)
        self._have = state["have"]
        return len(content), state["runs"][0]


def _measure_start(client: Client) -> None:
    started = time.perf_counter()
    size, _ = client.poll()
    print(f"first answer: {time.perf_counter() - started:.3f} s, {size / 1e3:.0f} kB")
    known, last = -1, time.perf_counter()
    while time.perf_counter() - last < 5:
        _, changed = client.poll()
        total = changed.get("episodes", {}).get("total", known)
        if total != known:
            known, last = total, time.perf_counter()
        time.sleep(0.5)
    print(f"{known} episodes indexed after {last - started:.1f} s")


def _measure_polling(client: Client, pid: int, seconds: float, each_second) -> float:
    """Returns the CPU time of a process as a share of one core."""
    for _ in range(3):
        client.poll()
        time.sleep(1)
    before, started = cpu_seconds(pid), time.perf_counter()
    polled = started
    while time.perf_counter() - started < seconds:
        each_second()
        if time.perf_counter() - polled >= POLL_S:
            client.poll()
            polled = time.perf_counter()
        time.sleep(1)
    return (cpu_seconds(pid) - before) / (time.perf_counter() - started)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process on Linux."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _measure_report(workdir: pathlib.Path, *, browser: bool) -> None:
    started = time.perf_counter()
    path = report.write([workdir], workdir / report.FILE)
    beside = [one.stat().st_size for one in (workdir / "report_data").glob("*")]
    print(
        f"report written in {time.perf_counter() - started:.1f} s: "
        f"{path.stat().st_size / 1e6:.1f} MB, beside it {len(beside)} files of together "
        f"{sum(beside) / 1e6:.0f} MB"
    )
    if browser:
        _measure_browser(f"file://{path}")


def _measure_browser(url: str) -> None:
    sync_api = importlib.import_module("playwright.sync_api")  # an extra
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("#training svg")
        paint = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        drawn = page.evaluate("performance.now()")
        print(f"first paint {paint:.0f} ms, curves drawn by {drawn:.0f} ms")
        started = time.perf_counter()
        page.click("nav.top >> text=Episodes")
        page.wait_for_selector(".viewer .row", timeout=60_000)
        print(f"list of all episodes: {time.perf_counter() - started:.2f} s")
        started = time.perf_counter()
        page.click(".viewer .row >> nth=40")
        page.wait_for_selector(".turn pre.action")
        print(f"an episode opened: {time.perf_counter() - started:.2f} s")
        browser.close()


if __name__ == "__main__":
    main()
