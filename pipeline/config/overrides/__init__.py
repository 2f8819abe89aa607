"""The overrides of a command line: how they are quoted, and what is wrong with those that are refused."""
