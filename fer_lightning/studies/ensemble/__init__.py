"""Ensembles: recipes, soft voting selected on the val part, reports."""
