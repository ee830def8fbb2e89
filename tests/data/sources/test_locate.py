"""FER2013 is found by its usual names."""

from helpers.fer2013 import gray_png, kaggle_files, write_files, write_zip
from helpers.processes import run_python

from fer_lightning.config import ROOT
from fer_lightning.data.sources.locate import find_fer2013


def test_find_fer2013_by_its_usual_names(tmp_path):
    assert find_fer2013(tmp_path / "nowhere") is None
    assert find_fer2013(tmp_path) is None
    write_files(tmp_path, {"train/cat/1.png": gray_png(0), "test/cat/1.png": gray_png(0)})  # another data set
    write_zip(tmp_path / "archive.zip", {"train/cat/1.png": gray_png(0)})
    assert find_fer2013(tmp_path) is None
    write_zip(tmp_path / "archive.zip", kaggle_files())
    assert find_fer2013(tmp_path) == tmp_path / "archive.zip"
    write_files(tmp_path / "only" / "FER2013", kaggle_files())
    assert find_fer2013(tmp_path / "only") == tmp_path / "only" / "FER2013"
    for name in ("fer2013.tar.gz", "icml_face_data.csv", "fer2013.csv.xz", "FER2013.csv"):  # each preferred to the last
        (tmp_path / name).touch()
        assert find_fer2013(tmp_path) == tmp_path / name


def test_locate_imports_no_large_packages():
    code = "import sys, fer_lightning.data.sources.locate; print(*sys.modules)"
    imported = run_python("-c", code, cwd=ROOT).stdout.split()
    assert "fer_lightning.data.sources.locate" in imported
    assert not {"torch", "cv2", "PIL", "numpy", "pandas", "hydra"} & set(imported)
