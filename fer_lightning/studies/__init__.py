"""Work over finished runs: baselines, ensembles, audit, calibration, pruning, sweeps."""
