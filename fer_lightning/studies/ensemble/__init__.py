"""Ensembles: recipes, soft votes chosen on the val part, reports."""
