"""The pages of the app in Streamlit's AppTest."""

from collections.abc import Iterable
from typing import Any

import pytest

from fer_lightning.config import ROOT

pytest.importorskip("streamlit", reason="the app needs Streamlit: pip install -e '.[app]'")

import streamlit
from streamlit.testing.v1 import AppTest

SCRIPT = ROOT / "fer_lightning" / "app" / "script.py"


def _run(app: AppTest) -> AppTest:
    streamlit.cache_data.clear()
    streamlit.cache_resource.clear()
    app.run()
    assert not app.exception
    return app


def open_app(*uploads: tuple[str, bytes]) -> AppTest:
    """The first page, with uploaded files (name and content)."""
    app = _run(AppTest.from_file(str(SCRIPT), default_timeout=60))
    if uploads:
        app.file_uploader[0].set_value([(name, data, "image/jpeg") for name, data in uploads])
        app.run()
    assert not app.exception
    return app


def open_results() -> AppTest:
    """The second page; AppTest can only open pages that are files."""

    def show() -> None:
        from fer_lightning.app import runs_page

        runs_page.page()

    return _run(AppTest.from_function(show, default_timeout=60))


def cards(app: AppTest) -> list[str]:
    """The HTML of the faces' cards."""
    return [
        html.proto.body for html in app.get("html") if "fer-card" in html.proto.body and "<style" not in html.proto.body
    ]


def texts(elements: Iterable[Any]) -> str:
    """The texts of elements of one type, such as `app.warning`."""
    return " ".join(element.value for element in elements)
