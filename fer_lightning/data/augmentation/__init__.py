"""Augmentation per image and per batch, MixUp and CutMix."""
