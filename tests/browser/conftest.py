"""A page of the system's own Chromium and an MLflow server. Tests that ask for a page are skipped without Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.support.mlflow_server import MlflowServer, mlflow_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_CHROMIUM = "no Chromium on this machine (Debian: apt-get install chromium)"

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def page() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        # The page may ask for fonts and the like from outside; nothing here leaves the machine.
        page.route("**/*", lambda route: route.continue_() if "127.0.0.1" in route.request.url else route.abort())
        yield page
        browser.close()


@pytest.fixture(scope="package")
def server(tmp_path_factory) -> Iterator[MlflowServer]:
    """One server for all tests here, since it takes longer to start than a test to run: use experiments of your own."""
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as server:
        yield server
