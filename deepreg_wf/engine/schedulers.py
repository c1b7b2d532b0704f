"""Commands with which Nipype's plugins for clusters submit jobs."""

from __future__ import annotations

SUBMIT_COMMANDS = {
    'SLURM': 'sbatch',
    'SGE': 'qsub',
    'PBS': 'qsub',
    'OAR': 'oarsub',
    'LSF': 'bsub',
    'Condor': 'condor_qsub',
}
"""Command of each plugin of Nipype that submits each step as a job and waits for it."""
