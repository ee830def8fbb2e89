"""Facial expression recognition on FER2013: reproducible training, evaluation and comparison."""

from fer_lightning import _torchvision_compat

__version__ = "0.1.0"

_torchvision_compat.install()
