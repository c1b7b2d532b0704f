"""What a run writes down of itself, for the reports and to be repeated."""

from __future__ import annotations

import platform

from deepreg_wf.app.context import Run
from deepreg_wf.app.provenance import hardware, software
from deepreg_wf.bids.entities import write_text
from deepreg_wf.checkpoints.find import SHIPPED, checksum_of, find_weights
from deepreg_wf.engine.usage import Meter, write_usage
from deepreg_wf.settings import Registration

RECORD = 'deepreg_wf.toml'


def write_records(run: Run) -> None:
    """Write what was asked, and what it is done with, to the log of each participant.

    Parameters
    ----------
    run
        What is about to begin.

    """
    record = run.settings.to_toml(
        started=run.started.isoformat(timespec='seconds'),
        command_line=run.command_line,
        device=run.resources.device,
        threads=run.resources.omp_nthreads,
        software=software(),
        hardware=hardware(run.resources.device),
        networks_sha256=_networks(run.settings.registration),
    )
    for participant in run.inputs.subjects:
        write_text(run.log_dir(participant) / RECORD, record)


def write_usages(run: Run, meter: Meter) -> None:
    """Write what was used to the log of each participant.

    Parameters
    ----------
    run
        What has come to its end, which this says: it is written last.
    meter
        What has measured it.

    """
    for participant in run.inputs.subjects:
        write_usage(
            run.log_dir(participant),
            meter,
            Participants=len(run.inputs.subjects),
            Processors=run.resources.nprocs,
            Device=run.resources.device,
            Plugin=run.resources.plugin_name,
            Host=platform.node(),
        )


def _networks(registration: Registration) -> dict[str, str]:
    """Checksums of the networks that are used, by what they do."""
    affine = {'affine': checksum_of(SHIPPED / 'affine.safetensors')}
    weights = find_weights(
        momentum=registration.momentum,
        uncertainty=registration.uncertainty,
        resolution=registration.registration_resolution,
        folder=registration.weights,
    )
    return (affine if registration.affine_method != 'classical' else {}) | weights.checksums()
