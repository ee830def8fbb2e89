"""Progressive resizing: the size of the training images by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class ProgressiveResizing(Callback):
    """Trains on small images first, and at full size at the end (Tan & Le 2021, arXiv 2104.00298, section 4).

    The cost of an epoch is proportional to the pixels, and early epochs need few. Validation and test always use the
    full size. For networks without a dense layer over the feature map. The size depends on the epoch and the number of
    epochs: a resumed run continues as if uninterrupted, and trains on small images again if it is made longer.

    Args:
        sides: Sides of the network's input in pixels, one after the other, for the same number of epochs each.
        share: Fraction of the epochs that these take; the rest, at least one, use the full size.

    Raises:
        ValueError: `sides` or `share` is invalid.
    """

    def __init__(self, sides: Sequence[int], share: float) -> None:
        if not sides or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
            raise ValueError(f"callbacks.progressive_resizing.sides is {sides}; it must be a list of sides in pixels")
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise ValueError(f"callbacks.progressive_resizing.share is {share}; it must be between 0 and 1")
        self.sides = list(sides)
        self.share = share

    def side(self, epoch: int, epochs: int, whole: int) -> int:
        """Return the side in pixels in `epoch` (from 0) of `epochs`, for images of `whole` pixels."""
        small = min(round(self.share * epochs), epochs - 1)
        return self.sides[epoch * len(self.sides) // small] if epoch < small else whole

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the size of the epoch."""
        network: Any = pl_module.network
        self._whole = network.image_size
        network.image_size = self.side(trainer.current_epoch, trainer.max_epochs or 1, self._whole)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Restore the full size for every other use of the network."""
        network: Any = pl_module.network
        network.image_size = self._whole
