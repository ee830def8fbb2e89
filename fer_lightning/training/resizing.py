"""Progressive resizing: the side of the training pictures from epoch to epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class ProgressiveResizing(Callback):
    """Trains on small pictures first, and on whole ones at the end (Tan & Le 2021, arXiv 2104.00298, section 4).

    An epoch costs in proportion to the pixels, and early epochs need few. Validation and test always see whole
    pictures. For networks without a dense layer over the map. The size follows from the epoch and the number of
    epochs: a resumed run goes on as if it had never stopped, and sees small pictures again where it is made longer.

    Args:
        sides: Sides in pixels that the network sees, one after the other, for as many epochs each.
        share: Share of the epochs that these take; the rest, at least one, see whole pictures.

    Raises:
        ValueError: `sides` or `share` cannot be.
    """

    def __init__(self, sides: Sequence[int], share: float) -> None:
        if not sides or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
            raise ValueError(f"callbacks.progressive_resizing.sides is {sides}; it must be a list of sides in pixels")
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise ValueError(f"callbacks.progressive_resizing.share is {share}; it must lie between 0 and 1")
        self.sides = list(sides)
        self.share = share

    def side(self, epoch: int, epochs: int, whole: int) -> int:
        """The side in pixels that pictures of `whole` px have in one of the `epochs`, counted from 0."""
        small = min(round(self.share * epochs), epochs - 1)
        return self.sides[epoch * len(self.sides) // small] if epoch < small else whole

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Lets the network see small pictures."""
        network: Any = pl_module.network
        self._whole = network.image_size
        network.image_size = self.side(trainer.current_epoch, trainer.max_epochs or 1, self._whole)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lets it see whole ones again, before anything else looks by it."""
        network: Any = pl_module.network
        network.image_size = self._whole
