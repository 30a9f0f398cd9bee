"""JupyterLab started for real, and Debian's Chromium to look at it with."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tools import notebooks

EVERY_PUSH = ("01",)  # the others in `make robust`


@pytest.fixture(
    params=[
        pytest.param(path, id=path.stem, marks=[] if path.name[:2] in EVERY_PUSH else [pytest.mark.robust])
        for path in notebooks.paths()
    ]
)
def path(request):
    """Each notebook."""
    return request.param


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def require_chromium() -> None:
    """Skip the test where there is no browser; fail in CI, which has to have one."""
    if chromium() is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have chromium: .ci/run installs it")
        pytest.skip("no chromium here: install it to run the browser tests")


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window. It ends with the file of its tests: until then playwright's event loop runs in their
    thread, and a test of another file could not run its own."""
    from playwright.sync_api import sync_playwright

    require_chromium()
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The address of a JupyterLab that serves copies of the notebooks."""
    require_chromium()
    root = tmp_path_factory.mktemp("lab")
    for path in notebooks.paths():
        notebook = json.loads(path.read_text("utf8"))
        for cell in notebook["cells"]:
            cell["metadata"].pop("jupyter", None)  # JupyterLab shows no number in front of a folded cell
        (root / path.name).write_text(json.dumps(notebook), "utf8")
    # Without windowing off, cells out of sight are not in the page, and a test cannot find them.
    for file, setting in {
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        path = root / "settings" / "@jupyterlab" / f"{file}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(setting))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1",
        "--IdentityProvider.token=", f"--notebook-dir={root}", "--ServerApp.disable_check_xsrf=True",
    ]  # fmt: skip
    environ = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(root / "settings")}
    environ.pop("CI", None)  # a learner's machine: training can be resumed
    server = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("JupyterLab did not answer within a minute")
        yield address
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def page(lab, browser):
    """A browser page; errors on its console are kept in `page.errors`."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))

    def hear(said):
        if said.type == "error":
            page.errors.append(f"{said.text} {said.location}")

    page.on("console", hear)
    yield page
    page.close()
    # A kernel outlives its page, with gigabytes in it.
    for kernel in json.load(urllib.request.urlopen(f"{lab}/api/kernels")):
        urllib.request.urlopen(urllib.request.Request(f"{lab}/api/kernels/{kernel['id']}", method="DELETE"))
