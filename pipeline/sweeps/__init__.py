"""`conf/hydra/sweeper`: grids that skip finished runs, and searches by Optuna."""
