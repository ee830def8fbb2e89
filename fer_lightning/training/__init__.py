"""The LightningModule and what it is built of: losses, optimizers, schedulers, metrics, callbacks."""
