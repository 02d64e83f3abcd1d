"""The site as a reader's browser shows it, on a desk and on a phone."""

import functools
import http.server
import shutil
import subprocess
import sys
import threading

import pytest
from test_docs import ROOT

pytestmark = pytest.mark.nightly
playwright = pytest.importorskip("playwright.sync_api")

PAGES = [
    "index.html",
    "guides/pytorch.html",
    "guides/narrow.html",
    "which_rmsprop.html",
    "api/dialects.html",
    "api/storage.html",
    "notebooks/walkthrough.html",
    "benchmarks/RESULTS.html",
    "benchmarks/ACCELERATORS.html",
    "parity.html",
    "performance.html",
    "atlas.html",
    "api/identify.html",
]
# Tables, code and formulas scroll by themselves.
TOO_WIDE = """() => [...document.querySelectorAll("article *")].filter(
    x => x.getBoundingClientRect().right > innerWidth + 1
         && !x.closest("table, pre, .highlight, mjx-container")
).map(x => x.outerHTML.slice(0, 80))"""
BROKEN = "() => [...document.images].filter(x => !x.naturalWidth).map(x => x.src)"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", ROOT / "docs", folder]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        own = shutil.which("chromium") or shutil.which("google-chrome")  # else playwright's
        opened = running.chromium.launch(executable_path=own, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_show_all_they_have(address, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors = []
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(request.url))
    for path in PAGES:
        page.goto(f"{address}/{path}", wait_until="networkidle")  # leaving aborts what still loads
        assert page.evaluate(BROKEN) == [], path
        assert page.evaluate(TOO_WIDE) == [], path
    assert errors == []
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_search_finds_rmsprop(address, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(f"{address}/search.html?q=rmsprop")
    page.wait_for_selector("#search-results li a")
    targets = [a.get_attribute("href") for a in page.query_selector_all("#search-results li a")]
    assert any("api/rmsprop.html#rmsprop_jax.rmsprop" in str(target) for target in targets[:3])
    page.close()
