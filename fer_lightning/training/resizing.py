"""Progressive resizing: small pictures first."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from fer_lightning.training.module import FERModule


class ProgressiveResizing(Callback):
    """Trains on small pictures first, whose steps cost less, and validates and tests at full size always.

    What a convolution learns at one size it can use at another (Howard 2018, fast.ai at DAWNBench); the last epochs, at
    full size, fit it and BatchNorm's statistics to that (Touvron et al. 2019, arXiv 1906.06423).

    Args:
        start: Side of the first epochs' pictures, as a fraction of the full one, `model.image_size`.
        full_from: Fraction of the epochs after which they have their full size.

    Raises:
        ValueError: A value lies outside its range.
    """

    def __init__(self, start: float, full_from: float) -> None:
        for name, value in (("start", start), ("full_from", full_from)):
            if not 0 < value <= 1:
                raise ValueError(
                    f"callbacks.progressive_resizing.{name} is {value}; it must be above 0 and at most 1, which is all"
                )
        self.start, self.full_from = start, full_from
        self._full_size: int | None = None

    def size(self, epoch: int, epochs: int, full_size: int) -> int:
        """Side of an epoch's pictures in pixels.

        Args:
            epoch: Counted from 0.
            epochs: How many there are.
            full_size: The largest side in pixels.
        """
        return full_size if epoch >= self.full_from * epochs else max(1, round(self.start * full_size))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Notes the full size."""
        assert isinstance(pl_module, FERModule)
        self._full_size = pl_module.network.image_size

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shrinks what the network looks at."""
        assert isinstance(pl_module, FERModule)
        assert self._full_size is not None
        assert trainer.max_epochs
        pl_module.network.image_size = self.size(trainer.current_epoch, trainer.max_epochs, self._full_size)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows pictures at full size again."""
        self._restore(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the network as it was, even where no epoch was validated."""
        self._restore(pl_module)

    def _restore(self, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, FERModule)
        assert self._full_size is not None
        pl_module.network.image_size = self._full_size
