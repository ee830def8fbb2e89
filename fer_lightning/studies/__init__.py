"""Work on finished runs: baselines, ensembles, audit, calibration, pruning, sweep reports."""
