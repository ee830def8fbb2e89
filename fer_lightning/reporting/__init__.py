"""Figures, tables, MLflow tracking and the records of measured runs."""
