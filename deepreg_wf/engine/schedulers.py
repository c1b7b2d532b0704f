"""The commands with which Nipype's cluster plugins submit jobs."""

from __future__ import annotations

SUBMITS_WITH = {
    'SLURM': 'sbatch',
    'SGE': 'qsub',
    'PBS': 'qsub',
    'OAR': 'oarsub',
    'LSF': 'bsub',
    'Condor': 'condor_qsub',
}
"""Nipype's plugins that submit each step as a job and wait for it, and the command they call."""
