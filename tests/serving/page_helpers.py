"""A browser that tests can type and click in: headless Chromium, driven through its DevTools protocol over a pipe."""

import base64
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report_helpers import CHROMIUM, HEADLESS

OPTIONS = (*HEADLESS, "--remote-debugging-pipe")
AS_3_AND_4 = """
import os, sys
os.dup2(int(sys.argv[1]), 30), os.dup2(int(sys.argv[2]), 31), os.dup2(30, 3), os.dup2(31, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""  # where Chromium reads commands and writes answers
KEYS = {
    "Enter": 13,
    "Escape": 27,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Tab": 9,
    "Home": 36,
}
CTRL, SHIFT = 2, 8
PATIENCE_S = 30.0


class Page:
    """One tab. `said` holds what it complained of: exceptions, console errors, refusals of its security policy.

    Args:
        process: Chromium.
        read: file descriptor of its answers.
        write: of its commands.
    """

    def __init__(self, process: subprocess.Popen[bytes], read: int, write: int) -> None:
        self._process, self._read, self._write = process, read, write
        self._n_sent, self._held, self._session = 0, b"", ""
        self.renew()

    def renew(self) -> None:
        """Become another tab, which shares nothing with the one before."""
        self._session = ""
        context = self.send("Target.createBrowserContext", disposeOnDetach=True)["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.said: list[str] = []
        self.requests: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(1280, 900)

    def send(self, method: str, **params: Any) -> Any:
        """The result of one command."""
        self._n_sent += 1
        message = {"id": self._n_sent, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._n_sent:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            if answer.get("sessionId") == self._session:
                self._hear(answer.get("method"), answer.get("params", {}))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._read], [], [], PATIENCE_S)
            assert ready, f"Chromium said nothing for {PATIENCE_S:g} s"
            received = os.read(self._read, 1 << 20)
            assert received, f"Chromium ended: {self._process.poll()}"
            self._held += received
        message, self._held = self._held.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found

    def _hear(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.said.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.said.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.said.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent" and "postData" in params["request"]:
            self.requests.append({"url": params["request"]["url"], "body": json.loads(params["request"]["postData"])})

    def open(self, address: str) -> None:
        """Load a page."""
        self.send("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, (expression, found["exceptionDetails"])
        return found["result"].get("value")

    def until(self, expression: str, *, within_s: float = 15.0) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + within_s
        while not self.ask(f"Boolean({expression})"):
            assert time.monotonic() < end, (expression, self.said, self.ask("document.body.innerText")[:2000])
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """What an element shows."""
        return str(self.ask(f"document.querySelector({json.dumps(selector)}).textContent"))

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of an element's first box, which is brought into view."""
        x, y = self.ask(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); "
            "one.scrollIntoView({ block: 'nearest' }); const box = one.getClientRects()[0]; "
            "return [box.left + box.width / 2, box.top + box.height / 2]; })()"
        )
        return x, y

    def hover(self, selector: str) -> None:
        """Bring the mouse there."""
        x, y = self.place(selector)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click with the mouse."""
        self.hover(selector)
        x, y = self.place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press a key."""
        event = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": modifiers}
        text = {"text": "\r"} if key == "Enter" and not modifiers else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, selector: str, text: str) -> None:
        """Write into a field in place of what is there."""
        self.ask(f"document.querySelector({json.dumps(selector)}).focus()")
        self.ask(f"document.querySelector({json.dumps(selector)}).select()")
        self.send("Input.insertText", text=text)

    def resize(self, width: int, height: int, *, scheme: str = "light") -> None:
        """Another window, and the scheme that its user prefers."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """Save what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A tab in a Chromium of its own, which ends with the block."""
    assert CHROMIUM is not None
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    process = subprocess.Popen(
        [
            sys.executable,
            "-ISc",
            AS_3_AND_4,
            str(in_read),
            str(out_write),
            CHROMIUM,
            *OPTIONS,
            f"--user-data-dir={profile}",
        ],
        pass_fds=(in_read, out_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(in_read), os.close(out_write)
    try:
        yield Page(process, out_read, in_write)
    finally:
        process.kill()
        process.wait(20)
        os.close(out_read), os.close(in_write)
