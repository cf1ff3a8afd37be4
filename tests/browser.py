"""Headless Chromium for tests, driven through its DevTools protocol.

Tests use the fixtures `browser` and `page`; without Chromium they are skipped, visibly. A page
keeps every request and every message of its console:

    page.set_window(390, 844)
    page.set_scheme("dark")
    page.open(path.as_uri())
    assert page.errors == [] and page.requests == [path.as_uri()]
"""

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # CI runs as root, and opens pages of ours only
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    # Nothing of the browser's own may reach for the network.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-proxy-server",
    "--remote-allow-origins=*",
    "--remote-debugging-port=0",
    "--hide-scrollbars",
)
SECONDS = 30.0  # limit for one step; a busy machine may need a few
CLOSING = 5.0
# Windows virtual key codes, which the protocol needs for keys without a character.
KEYS = {
    "Enter": 13,
    "Escape": 27,
    "Tab": 9,
    "Backspace": 8,
    "Delete": 46,
    " ": 32,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}
TEXTS = {"Enter": "\r", " ": " "}
MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}


def find_chromium() -> str | None:
    """Path of Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A tab of the browser.

    Attributes:
        requests: URLs that were requested since the last `open`, without `data:` and `blob:`.
        errors: errors and warnings of the console, exceptions and failed requests since then.
        messages: everything else that the console has printed.
    """

    def __init__(self, address: str) -> None:
        import websocket

        self._socket = websocket.create_connection(address, timeout=SECONDS)
        self._number = 0
        self._loaded = False
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.messages: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def open(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self._loaded = False
        self.requests.clear()
        self.errors.clear()
        self.messages.clear()
        answer = self.call("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        end = time.monotonic() + SECONDS
        while not self._loaded:
            assert time.monotonic() < end, f"{url} is not loaded after {SECONDS} s"
            self._receive()
        # The answer comes after all earlier messages of the console.
        self.evaluate("0")

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = SECONDS) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"not true after {seconds} s: {expression}"
            time.sleep(0.02)
        return value

    def text(self, selector: str = "body") -> str:
        """Visible text of an element."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def set_window(self, width: int, height: int, phone: bool = False) -> None:
        """Set the size of the page in CSS pixels; with `phone`, as a phone shows it."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )

    def set_scheme(self, scheme: str) -> None:
        """Set the user's preferred colours: `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: Path, whole: bool = True) -> Path:
        """Write a screenshot (PNG) of the whole page, or of the visible part."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def pdf(self, path: Path) -> Path:
        """Print the page into a PDF file."""
        answer = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def press(self, key: str, *modifiers: str) -> None:
        """Press and release a key, such as `a`, `Enter` or `ArrowLeft`, with `Control` or so."""
        mask = sum(MODIFIERS[name] for name in modifiers)
        event: dict[str, object] = {"key": key, "modifiers": mask}
        if key in KEYS:
            event |= {"code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        else:
            kind = "Digit" if key.isdigit() else "Key"
            event |= {"code": f"{kind}{key.upper()}", "windowsVirtualKeyCode": ord(key.upper())}
        text = TEXTS.get(key, key if len(key) == 1 else "")
        if mask & (MODIFIERS["Control"] | MODIFIERS["Meta"]):
            text = ""
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def place(self, selector: str) -> tuple[float, float]:
        """Scroll an element into view and return the centre of it in CSS pixels."""
        x, y = self.evaluate(
            f"""(() => {{
              const element = document.querySelector({json.dumps(selector)});
              element.scrollIntoView({{block: "center", behavior: "instant"}});
              const box = element.getBoundingClientRect();
              return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        return x, y

    def click(self, selector: str) -> None:
        """Click on the centre of an element."""
        self.drag([self.place(selector)])

    def drag(self, points: Sequence[tuple[float, float]]) -> None:
        """Press the left button at the first point, move through all others, and release it."""
        mouse = {"button": "left", "clickCount": 1}
        first, last = points[0], points[-1]
        self._mouse("mousePressed", first, **mouse)
        for point in points[1:]:
            self._mouse("mouseMoved", point, button="left", buttons=1)
        self._mouse("mouseReleased", last, **mouse)

    def choose_files(self, selector: str, paths: Sequence[Path]) -> None:
        """Choose files in an `<input type=file>`."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        files = [str(path.absolute()) for path in paths]
        self.call("DOM.setFileInputFiles", files=files, nodeId=node)

    def drop_files(self, selector: str, paths: Sequence[Path]) -> None:
        """Drag files from the desktop onto an element and drop them."""
        x, y = self.place(selector)
        data = {
            "items": [],
            "files": [str(path.absolute()) for path in paths],
            "dragOperationsMask": 1,
        }
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def close(self) -> None:
        """Close the tab."""
        with contextlib.suppress(Exception):  # the browser may be gone
            self.call("Page.close")
        self._socket.close()

    def _mouse(self, kind: str, point: tuple[float, float], **options: object) -> None:
        x, y = point
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **options)

    def _receive(self) -> dict[str, Any]:
        """Receive one message; events are noted."""
        message = json.loads(self._socket.recv())
        note = getattr(self, f"_on_{message.get('method', '').replace('.', '_')}", None)
        if note is not None:
            note(message["params"])
        return message

    def _on_Page_loadEventFired(self, event: dict[str, Any]) -> None:
        self._loaded = True

    def _on_Network_requestWillBeSent(self, event: dict[str, Any]) -> None:
        url = event["request"]["url"]
        if not url.startswith(("data:", "blob:")):
            self.requests.append(url)

    def _on_Runtime_consoleAPICalled(self, event: dict[str, Any]) -> None:
        text = " ".join(str(part.get("value", part.get("description"))) for part in event["args"])
        bad = event["type"] in ("error", "warning", "assert")
        (self.errors if bad else self.messages).append(text)

    def _on_Runtime_exceptionThrown(self, event: dict[str, Any]) -> None:
        details = event["exceptionDetails"]
        self.errors.append(details.get("exception", {}).get("description", details["text"]))

    def _on_Log_entryAdded(self, event: dict[str, Any]) -> None:
        entry = event["entry"]
        bad = entry["level"] in ("error", "warning")
        text = f"{entry['text']} {entry.get('url', '')}".strip()
        (self.errors if bad else self.messages).append(text)


class Browser:
    """A process of Chromium with a profile of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        self._folder = folder
        command = [program, *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        self._port = self._wait_for_port()

    def new_page(self) -> Page:
        """Open a tab."""
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
        connection.request("PUT", "/json/new?about:blank")
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return Page(answer["webSocketDebuggerUrl"])

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(CLOSING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_for_port(self) -> int:
        path = self._folder / "DevToolsActivePort"
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            # The file appears empty and is filled a moment later.
            lines = path.read_text().splitlines() if path.is_file() else []
            if len(lines) == 2:
                return int(lines[0])
            time.sleep(0.02)
        self.close()
        raise AssertionError("Chromium did not start")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium for all tests of a worker; they are skipped where it is missing."""
    program = find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    pytest.importorskip("websocket", reason="websocket-client comes with the extra test")
    # Chromium's processes may write into the profile while it is removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = Browser(program, Path(folder))
        yield process
        process.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new tab."""
    tab = browser.new_page()
    yield tab
    tab.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[[], Page]]:
    """A function that opens tabs, which are closed at the end of the test."""
    tabs: list[Page] = []

    def open_tab() -> Page:
        tabs.append(browser.new_page())
        return tabs[-1]

    yield open_tab
    for tab in tabs:
        tab.close()
