"""A generated world of facts with downstream tasks beside them, and the tiny models that know it."""
