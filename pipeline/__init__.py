"""Runs experiments: Hydra, data, run folders, trackers and the loop of the papers' protocol."""
