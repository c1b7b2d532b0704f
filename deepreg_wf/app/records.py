"""Records of a run: its settings and software before it starts, its resource usage at its end."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable

from deepreg_wf.app.context import WORKFLOW, Run
from deepreg_wf.app.provenance import hardware, software
from deepreg_wf.checkpoints.locate import checksum_of, find_affine_network, find_weights
from deepreg_wf.engine.computed import leave_settings, write_computed
from deepreg_wf.engine.failures import Failure, participant_of
from deepreg_wf.engine.progress import ALL_IMAGES, StepLabels
from deepreg_wf.engine.usage import ResourceMonitor, write_usage
from deepreg_wf.settings import Registration
from deepreg_wf.utils.atomic import write_text

SETTINGS_FILE = 'deepreg_wf.toml'


def write_settings(run: Run, images: Collection[str]) -> None:
    """Write the settings, the software and the hardware of a run, before its first step.

    They are written to the log of each participant, and to the work folder beside the results of
    each image, which a later run may reuse.

    Parameters
    ----------
    run : Run
        A run that is about to start.
    images : collection of str
        Names of the workflows of its images.
    """
    record = run.settings.to_toml(
        started=run.started.isoformat(timespec='seconds'),
        command_line=run.command_line,
        device=run.resources.device,
        threads=run.resources.omp_nthreads,
        software=software(),
        hardware=hardware(run.resources.device),
        networks_sha256=_network_checksums(run.settings.registration),
    )
    for participant in run.inputs.subjects:
        write_text(run.log_dir(participant) / SETTINGS_FILE, record)
    leave_settings(run.base_dir / WORKFLOW, images, run.run_id, record)


def write_origins(run: Run, step_labels: StepLabels, failures: Iterable[Failure]) -> None:
    """Write the runs that computed the results of each image to the log of its participant.

    Parameters
    ----------
    run : Run
        A run whose steps have ended.
    step_labels : StepLabels
        Steps of its workflow.
    failures : iterable of Failure
        Failures of the run. Images that failed keep the record of an earlier run.
    """
    failed = {failure.image for failure in failures}
    done = set() if ALL_IMAGES in failed else set(step_labels.images.values()) - failed
    for participant in run.inputs.subjects:
        images = {image for image in done if participant_of(image) == participant}
        write_computed(run.log_dir(participant), run.base_dir, step_labels, images)


def write_resource_usage(run: Run, monitor: ResourceMonitor) -> None:
    """Write the resource usage of a run to the log of each participant.

    Parameters
    ----------
    run : Run
        A run that has ended. Write this record last: it marks the run as complete.
    monitor : ResourceMonitor
        Measurements of the run.
    """
    for participant in run.inputs.subjects:
        write_usage(
            run.log_dir(participant),
            monitor,
            Participants=len(run.inputs.subjects),
            Processors=run.resources.nprocs,
            Device=run.resources.device,
            Plugin=run.resources.plugin_name,
            Host=platform.node(),
        )


def _network_checksums(registration: Registration) -> dict[str, str]:
    """Compute the checksums of the networks that are used, by their role."""
    affine = {'affine': checksum_of(find_affine_network(registration.weights))}
    weights = find_weights(
        momentum=registration.momentum,
        uncertainty=registration.uncertainty,
        resolution=registration.registration_resolution,
        folder=registration.weights,
    )
    return (affine if registration.affine_method != 'classical' else {}) | weights.checksums()
