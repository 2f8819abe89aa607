"""Everything that only reads: norms, scores, tables and figures."""
