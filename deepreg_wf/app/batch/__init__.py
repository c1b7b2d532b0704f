"""A cohort as an array of cluster jobs, one participant per task."""
