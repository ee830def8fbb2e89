"""The LightningModule and its components: losses, optimizers, schedulers, metrics, callbacks."""
