"""A headless browser."""

import base64
import io
import itertools
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.processes import wait_for

pytest.importorskip("websockets", reason="needs the websockets of Streamlit: pip install -e '.[app]'")

from websockets.sync.client import connect


class Chromium:
    """A page of a headless browser with a fake camera, controlled through the DevTools protocol."""

    def __init__(self, program: str, folder: Path, width: int) -> None:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        flags += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        self.process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.DEVNULL
        )
        self._numbers = itertools.count(1)
        port = wait_for((folder / "DevToolsActivePort").read_text, ignore=(FileNotFoundError,)).split("\n")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as response:
            [page] = [page for page in json.load(response) if page["type"] == "page"]
        self._socket = connect(page["webSocketDebuggerUrl"], max_size=None).__enter__()
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)

    def __call__(self, method: str, **params: object) -> dict:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            response = json.loads(self._socket.recv(timeout=60))
            if response.get("id") == number:
                if "error" in response:  # for example while the page is rendered again
                    raise LookupError(response["error"]["message"])
                return response["result"]

    def value(self, script: str) -> object:
        """The value of a script, None after an error."""
        return self("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until a script is true."""
        wait_for(lambda: self.value(condition), ignore=(LookupError,))

    def wait_for_text(self, text: str) -> None:
        self.wait_for(f"document.body.innerText.includes({json.dumps(text)})")

    def click(self, text: str, where: str = "button") -> None:
        element = f"[...document.querySelectorAll('{where}')].filter(e => e.innerText.trim().endsWith('{text}')).pop()"
        self.wait_for(f"{element} && !{element}.disabled")
        x, y = self.value(
            f"(() => {{const e = {element}; e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def upload(self, *files: Path) -> None:
        def given() -> bool:
            root = self("DOM.getDocument")["root"]["nodeId"]
            node = self("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
            self("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])
            return True

        wait_for(given, ignore=(LookupError,))

    def screenshot(self) -> np.ndarray:
        data = base64.b64decode(self("Page.captureScreenshot")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@contextmanager
def terminated(process: subprocess.Popen[str]) -> Iterator[None]:
    """Terminate a process after this block."""
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)
