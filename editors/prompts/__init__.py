"""Prompts: the names that they mention, and facts that are put before them instead of into weights."""
