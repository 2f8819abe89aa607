"""Sources of downstream tasks: each writes task files for the lm-evaluation-harness into a folder."""
