"""A checkpoint as a model of the app."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.images import noise
from helpers.predictions import probabilities_of
from helpers.runs import edited_checkpoint

from fer_lightning.app import choices


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([24, 24], (1, 24, 24)),
        ([200, 200, 3], (1, 96, 96)),  # at most the input size of the network
    ],
)
def test_a_run_gets_images_of_the_training_resolution(
    run_with_checkpoint: Path, shape: list[int], expected: tuple[int, ...]
) -> None:
    path = run_with_checkpoint / "checkpoints" / "best.ckpt"
    with edited_checkpoint(path) as saved:
        saved["hyper_parameters"]["model"]["image_size"] = 96
        saved["hyper_parameters"]["provenance"] = {"image_shape": shape}
    sharp = noise(200, 200, 3)
    assert choices.available_choices()[0][0].load()._input(sharp).shape == expected
    with edited_checkpoint(path) as saved:
        saved["hyper_parameters"]["provenance"] = {}
    with pytest.raises(ValueError, match="lacks the shape of its training images"):
        choices.available_choices()[0][0].load()


def test_a_run_trained_on_crops_gets_the_centre_of_a_face(run_with_checkpoint: Path, small_network) -> None:
    path = run_with_checkpoint / "checkpoints" / "best.ckpt"
    views = {"_target_": "fer_lightning.models.tta.ten_crop", "_partial_": True, "size": 0.75}
    with edited_checkpoint(path) as saved:
        saved["hyper_parameters"]["evaluation"]["views"] = views
    face = noise(48, 48)
    [prediction] = choices.available_choices()[0][0].load().predict([face])
    with torch.no_grad():
        expected = small_network(torch.from_numpy(face[6:42, 6:42] / np.float32(255))[None, None]).softmax(dim=1)[0]
    assert probabilities_of(prediction) == pytest.approx(expected.tolist(), abs=1e-5)
