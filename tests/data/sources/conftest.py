"""Fixtures of the tests that read data sets."""

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """The user's cache folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    return tmp_path / "user-cache" / "fer_lightning"


@pytest.fixture
def rows():
    """Nine rows of FER2013: images, labels, usage."""
    rng = np.random.default_rng(0)
    usage = np.array(["Training"] * 5 + ["PublicTest"] * 2 + ["PrivateTest"] * 2)
    return rng.integers(0, 256, (9, 48, 48), dtype=np.uint8), np.array([0, 1, 2, 3, 4, 5, 6, 0, 3]), usage
