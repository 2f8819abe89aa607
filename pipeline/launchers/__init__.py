"""`conf/launcher`: several runs at a time on one machine, or as Slurm jobs."""
