"""The progress of runs: the state of each, read from its folder alone."""
