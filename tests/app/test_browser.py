"""The app in a browser."""

import io
import shutil
import socket
import subprocess
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from helpers.chromium import Chromium, terminated
from helpers.images import noise
from helpers.processes import free_port, start_python, wait_for
from PIL import Image

from fer_lightning.inference.detect import detector


def test_the_app_in_a_browser(small_bundle: Path, real_data: Path, tmp_path: Path) -> None:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with zipfile.ZipFile(real_data / "fer2013-kaggle.zip") as archive:
        name = next(name for name in sorted(archive.namelist()) if "happy/PublicTest" in name)
        face = np.asarray(Image.open(archive.open(name)))
    canvas = np.full((800, 1000), 128, np.uint8)
    canvas[200:600, 300:700] = cv2.resize(face, (400, 400), interpolation=cv2.INTER_CUBIC)
    assert len(detector()(canvas)) == 1
    work = tmp_path / "work"
    work.mkdir()
    cv2.imwrite(str(tmp_path / "face.png"), canvas)
    cv2.imwrite(str(tmp_path / "large.bmp"), noise(1000, 2000))  # more than 1 MB
    (tmp_path / "text.jpg").write_text("not an image")
    port = free_port()
    arguments = ["-m", "fer_lightning", "app", "--port", str(port), "--model", str(small_bundle)]
    server = start_python(*arguments, cwd=work, stdout=subprocess.PIPE)
    with terminated(server):
        assert server.stdout is not None
        assert "only this machine" in server.stdout.readline()
        wait_for(lambda: socket.create_connection(("localhost", port)).close() is None, server, ignore=(OSError,))
        page = Chromium(program, tmp_path / "profile", width=390)
        with terminated(page.process):
            page("Page.navigate", url=f"http://localhost:{port}")
            page.wait_for_text("nothing is written to disk")
            assert page.value("document.documentElement.scrollWidth") <= 390
            page.upload(tmp_path / "face.png", tmp_path / "large.bmp", tmp_path / "text.jpg")
            page.wait_for_text("1 face in 3 images")
            page.wait_for_text("not an image in a known format")
            page.wait_for_text("No face was found")
            assert page.value("document.querySelectorAll('.fer-card .fer-bar').length") == 3
            assert page.value("document.documentElement.scrollWidth") <= 390
            page("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "downloads"))
            page.click("CSV")
            csv = wait_for((tmp_path / "downloads" / "expressions.csv").read_text, ignore=(FileNotFoundError,))
            table = pd.read_csv(io.StringIO(csv))
            assert table["image"].tolist() == ["face.png", "large.bmp", "text.jpg"]
            page.click("Camera", "[data-testid=stButtonGroup] *")
            page.wait_for("document.querySelector('video')?.readyState == 4")
            page.click("Take Photo")
            page.wait_for_text("0 faces in 1 image")  # Chromium's camera shows a clock
            assert page.screenshot().std() > 10
            page("Page.navigate", url=f"http://localhost:{port}/results")
            page.wait_for_text("Measured systems")
        assert not list(work.rglob("*"))
