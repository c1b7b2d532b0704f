"""A cohort as an array of SLURM jobs, one participant per task."""
