"""Everything that changes a language model's weights, usable without Hydra, disk or network."""
