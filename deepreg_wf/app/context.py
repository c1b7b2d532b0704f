"""The settings, inputs and folders of one run, shared by its stages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deepreg_wf.app.inputs import Inputs
from deepreg_wf.engine.failures import participant_of
from deepreg_wf.engine.resources import Resources
from deepreg_wf.settings import Compute, Settings
from deepreg_wf.templates.template import Template

WORKFLOW = 'deepreg_wf'
"""Name of the workflow, and of its folder in the work folder."""

DETERMINISTIC = f'{WORKFLOW}_deterministic'
"""Folder in the work folder that holds the workflow of deterministic runs."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call at the participant level.

    Parameters
    ----------
    settings : Settings
        Settings of the call.
    inputs : Inputs
        Images to process.
    templates : tuple of Template
        Templates that they are registered to.
    resources : Resources
        Processors, memory and device that may be used.
    run_id : str
        Name of the folder of its logs.
    started : datetime
        Time when it started, with its time zone.
    command_line : str
        The call itself.
    """

    settings: Settings
    inputs: Inputs
    templates: tuple[Template, ...]
    resources: Resources
    run_id: str
    started: datetime
    command_line: str

    @property
    def output_dir(self) -> Path:
        """Folder of the derivatives."""
        return self.settings.output.output_dir

    @property
    def base_dir(self) -> Path:
        """Folder that holds the workflow.

        Deterministic runs have their own, so that they reuse only results of deterministic runs.
        """
        work_dir = self.settings.execution.work_dir
        return work_dir / DETERMINISTIC if self.resources.is_deterministic else work_dir

    @property
    def compute(self) -> Compute:
        """Settings that the steps compute with."""
        return Compute(
            device=self.resources.device,
            omp_nthreads=self.resources.omp_nthreads,
            batch_size=self.resources.batch_size,
            random_seed=self.settings.execution.random_seed,
            sloppy=self.settings.execution.sloppy,
        )

    @property
    def participants(self) -> list[str]:
        """Labels of the participants that have an image or were given by name."""
        return sorted({participant_of(name) for name in self.image_names})

    @property
    def image_names(self) -> list[str]:
        """Names of all selected images, usable or not, such as ``sub-01_ses-pre``.

        A participant without a usable folder, or given by name without an image, counts as one.
        """
        images = [image_name(path) for path in (*self.inputs.images, *self.inputs.rejected)]
        named = set(self.settings.selection.participant_label)
        without_images = {*self.inputs.unreadable, *named.intersection(self.inputs.without_t1w)}
        return sorted({*images, *(f'sub-{label}' for label in without_images)})

    def log_dir(self, participant: str) -> Path:
        """Return the folder of the settings and the crash files of a participant."""
        return self.output_dir / f'sub-{participant}' / 'log' / self.run_id

    @property
    def common_log_dir(self) -> Path:
        """Folder of the crash files of steps that all participants share."""
        return self.output_dir / 'logs' / self.run_id


def image_name(path: Path) -> str:
    """Return the name of an image for messages, without its suffix."""
    return path.name.rpartition('_')[0]
