"""Protocols: how a data set is split into training, validation and test parts."""
