"""The settings, inputs and folders of one run, shared by its stages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deepreg_wf.app.inputs import Inputs
from deepreg_wf.engine.resources import Resources
from deepreg_wf.settings import Settings
from deepreg_wf.templates.template import Template

NAME = 'deepreg_wf'
DETERMINISTIC = f'{NAME}_deterministic'


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run knows of itself.

    Parameters
    ----------
    settings
        What was asked.
    inputs
        Images that were found.
    templates
        What they are registered to.
    resources
        What may be used.
    run_id
        Name of the folder of its logs.
    started
        When it began.
    command_line
        The call.

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
        """Folder of the workflow: a deterministic run goes on from others of its kind alone."""
        work_dir = self.settings.execution.work_dir
        return work_dir / DETERMINISTIC if self.resources.is_deterministic else work_dir

    @property
    def begun(self) -> float:
        """When the run began, in seconds of the epoch."""
        return self.started.timestamp()

    @property
    def participants(self) -> list[str]:
        """Labels of those that the run is about: who has an image, or was asked for by name."""
        named = set(self.settings.selection.participant_label)
        lacking = named.intersection(self.inputs.without_t1w)
        return sorted({*self.inputs.subjects, *self.inputs.unreadable, *lacking})

    def log_dir(self, participant: str) -> Path:
        """Folder of the settings and the crash files of a participant."""
        return self.output_dir / f'sub-{participant}' / 'log' / self.run_id

    @property
    def common_log_dir(self) -> Path:
        """Folder of the crash files of steps that all share."""
        return self.output_dir / 'logs' / self.run_id
