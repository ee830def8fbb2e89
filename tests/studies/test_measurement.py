import dataclasses

import numpy as np
import pytest
from helpers.measurements import measurements_with

from fer_lightning.studies.compare.networks import compare


def test_measurements_on_other_data_cannot_be_paired() -> None:
    labels = np.array([0, 1] * 10)
    [a], [b] = measurements_with(labels, [labels == labels]), measurements_with(labels, [labels == labels], "B")
    assert compare(a, b)["mcnemar"]["p"] == 1
    other = dataclasses.replace(b, record={**b.record, "data_fingerprint": "g"})
    with pytest.raises(ValueError, match="were not measured on the same images"):
        compare(a, other)
