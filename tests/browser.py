"""An installed Chromium, driven by Playwright; tests that need it skip without either."""

import contextlib
import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium():
    return os.environ.get("AGENTRL_CHROMIUM") or next(
        (path for path in map(shutil.which, NAMES) if path), None
    )


@contextlib.contextmanager
def open_browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs the extra [browser]"
    )
    path = find_chromium()
    if path is None:
        pytest.skip(f"needs an installed Chromium ({', '.join(NAMES)})")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


class Visit:
    """A page in a window of its own; keeps what must not happen."""

    def __init__(self, browser, *, width=1400, scheme="light"):
        self._context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self._context.new_page()
        self.page.set_default_timeout(10_000)
        self.problems, self.requests = [], []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("dialog", lambda dialog: self._refuse(dialog))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _hear(self, message):
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _refuse(self, dialog):
        self.problems.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def fits(self):
        return self.page.evaluate(
            "document.documentElement.scrollWidth <= window.innerWidth"
        )

    def close(self):
        self._context.close()
