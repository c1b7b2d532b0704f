"""Workflows of a whole dataset and of one image, from the raw file to its derivatives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf import __version__
from deepreg_wf.bids.entities import derivative_path, parse_entities
from deepreg_wf.bids.precomputed import NO_PRECOMPUTED, Precomputed
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Anatomical, Compute, Registration
from deepreg_wf.workflows.anatomical import TEMPLATE_EDGES, init_anat_preproc_wf
from deepreg_wf.workflows.standard_space import (
    NATIVE_FIELDS,
    REGISTERED_FIELDS,
    REPORT_FIELDS,
    TEMPLATE_FIELDS,
    init_standard_space_wf,
)
from deepreg_wf.workflows.template import prepare_template

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.templates.template import Template

_DESCRIPTION = """\
Results included in this manuscript come from registration performed using *deepreg_wf* \
{version}, a
BIDS-App [@bids; @bidsapps] based on *Nipype* [@nipype] and *NiWorkflows* [@niworkflows].

"""


def init_deepreg_wf(
    *,
    subjects: Mapping[str, Sequence[Path]],
    bids_dir: Path,
    output_dir: Path,
    templates: Sequence[Template],
    level: str = 'full',
    precomputed: Mapping[Path, Precomputed] | None = None,
    lesions: Mapping[Path, Path] | None = None,
    anatomical: Anatomical = Anatomical(),
    registration: Registration = Registration(),
    compute: Compute = Compute(),
    run_id: str,
    name: str = 'deepreg_wf',
) -> LiterateWorkflow:
    """Build the workflow that registers every T1-weighted image of a dataset.

    Templates are prepared once. Every image has a workflow of its own, so that the failure of one
    does not affect the others.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from pathlib import Path
            from deepreg_wf.templates import Template
            from deepreg_wf.workflows.base import init_deepreg_wf
            wf = init_deepreg_wf(
                subjects={'01': [Path('bids/sub-01/anat/sub-01_T1w.nii.gz')]},
                bids_dir=Path('bids'),
                output_dir=Path('out'),
                templates=[Template(space='MNI152NLin2009aSym', t1w=Path('template.nii.gz'))],
                run_id='20250101-000000',
            )

    Parameters
    ----------
    subjects : mapping of str to sequence of Path
        T1-weighted images of each participant, by label.
    bids_dir, output_dir : Path
        Folders of the raw dataset and of the derivatives.
    templates : sequence of Template
        Templates that each image is registered to, one by one.
    level : {'minimal', 'full'}
        Set of derivatives that are stored, as in `init_outputs_wf`.
    precomputed : mapping of Path to Precomputed, optional
        Masks and preprocessed images of other programs, by raw image.
    lesions : mapping of Path to Path, optional
        Masks of lesions, by raw image.
    anatomical : Anatomical
        Brain extraction.
    registration : Registration
        Affine and deformable registration.
    compute : Compute
        Device, threads, batch size, seed and quality of the computations.
    run_id : str
        Name of the folder for crash files, ``sub-X/log/<run_id>``.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    Raises
    ------
    InputError
        If the derivatives of two images would have the same names.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    images = [image for files in subjects.values() for image in files]
    _check_names(images)
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _DESCRIPTION.format(version=__version__)
    prepared = _prepare_templates(templates, registration)
    for image in images:
        single_subject_wf = init_single_subject_wf(
            t1w_file=image,
            bids_dir=bids_dir,
            output_dir=output_dir,
            templates=templates,
            level=level,
            precomputed=(precomputed or {}).get(image, NO_PRECOMPUTED),
            lesion=(lesions or {}).get(image),
            anatomical=anatomical,
            registration=registration,
            compute=compute,
            name=single_subject_name(image),
        )
        participant = f'sub-{parse_entities(image)["subject"]}'
        _set_crash_dir(single_subject_wf, output_dir / participant / 'log' / run_id)
        _connect_templates(workflow, prepared, single_subject_wf)
    return workflow


def init_single_subject_wf(
    *,
    t1w_file: Path,
    bids_dir: Path,
    output_dir: Path,
    templates: Sequence[Template],
    level: str = 'full',
    precomputed: Precomputed = NO_PRECOMPUTED,
    lesion: Path | None = None,
    anatomical: Anatomical = Anatomical(),
    registration: Registration = Registration(),
    compute: Compute = Compute(),
    name: str = 'single_subject_wf',
) -> LiterateWorkflow:
    """Build the workflow that processes one image, from the raw file to derivatives and figures.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from pathlib import Path
            from deepreg_wf.templates import Template
            from deepreg_wf.workflows.base import init_single_subject_wf
            wf = init_single_subject_wf(
                t1w_file=Path('bids/sub-01/anat/sub-01_T1w.nii.gz'),
                bids_dir=Path('bids'),
                output_dir=Path('out'),
                templates=[Template(space='MNI152NLin2009aSym', t1w=Path('template.nii.gz'))],
            )

    Parameters
    ----------
    t1w_file : Path
        The raw image.
    bids_dir, output_dir : Path
        Folders of the raw dataset and of the derivatives.
    templates : sequence of Template
        Templates that the image is registered to, one by one.
    level : {'minimal', 'full'}
        Set of derivatives that are stored, as in `init_outputs_wf`.
    precomputed : Precomputed
        Mask and preprocessed image of other programs.
    lesion : Path, optional
        Mask of a lesion in the image.
    anatomical : Anatomical
        Brain extraction.
    registration : Registration
        Affine and deformable registration.
    compute : Compute
        Device, threads, batch size, seed and quality of the computations.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w
        The image; already set to `t1w_file`, or to the preprocessed image of `precomputed`

    The workflow of each template, ``SPACE_wf``, has the inputs of `init_standard_space_wf` that
    come from a prepared template. The workflow of the image, ``anat_preproc_wf``, has inputs for a
    template that a plausible brain has to resemble.

    Returns
    -------
    LiterateWorkflow
        It writes its results and has no outputs.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=['t1w']), name='inputnode')
    inputnode.inputs.t1w = str(precomputed.t1w or t1w_file)
    anat_wf = init_anat_preproc_wf(anatomical=anatomical, compute=compute, precomputed=precomputed)
    workflow.connect(inputnode, 't1w', anat_wf, 'inputnode.t1w')
    fields = dict.fromkeys((*REGISTERED_FIELDS, *NATIVE_FIELDS, *REPORT_FIELDS))
    for number, template in enumerate(templates):
        space_wf = init_standard_space_wf(
            t1w_file=t1w_file,
            bids_dir=bids_dir,
            output_dir=output_dir,
            template=template,
            native=templates if number == 0 else (),
            sources=precomputed.sources,
            lesion=lesion,
            level=level,
            registration=registration,
            compute=compute,
            name=f'{_label(template)}_wf',
        )
        # A new list for each connection: Nipype keeps and changes it.
        edges = [(f'outputnode.{field}', f'inputnode.{field}') for field in fields]
        workflow.connect([(anat_wf, space_wf, edges)])
        workflow.connect(inputnode, 't1w', space_wf, 'inputnode.t1w')
    return workflow


def image_names(images: Iterable[Path]) -> dict[str, str]:
    """Return the name of each image for messages, by the name of its workflow.

    Parameters
    ----------
    images : iterable of Path
        Raw images.

    Returns
    -------
    dict of str to str
        Names such as ``sub-01_ses-pre``.

    Examples
    --------
    >>> image_names([Path('sub-01_T1w.nii.gz')])
    {'single_subject_01_wf': 'sub-01'}
    """
    return {single_subject_name(image): image.name.rpartition('_')[0] for image in images}


def single_subject_name(t1w_file: Path) -> str:
    """Return the name of the workflow of an image, which contains the entities of its file.

    Parameters
    ----------
    t1w_file : Path
        The raw image.

    Returns
    -------
    str

    Examples
    --------
    >>> single_subject_name(Path('sub-01_ses-pre_run-1_T1w.nii.gz'))
    'single_subject_01_ses_pre_run_1_wf'
    """
    entities = t1w_file.name.rpartition('_')[0].removeprefix('sub-')
    return f'single_subject_{re.sub("[^a-zA-Z0-9]", "_", entities)}_wf'


def _prepare_templates(
    templates: Sequence[Template], registration: Registration
) -> dict[str, pe.Node]:
    """Return the node that prepares each template, by the label of the template."""
    resolution = registration.registration_resolution
    labels = {_label(template): template for template in templates}
    return {
        label: prepare_template(template, resolution, f'prepare_{label}')
        for label, template in labels.items()
    }


def _connect_templates(
    workflow: LiterateWorkflow,
    prepared: Mapping[str, pe.Node],
    single_subject_wf: LiterateWorkflow,
) -> None:
    """Connect the prepared templates with the workflow of an image."""
    outputs = ('t1w_brain', 'brain_mask', 'reference')
    for label, prepare in prepared.items():
        edges = [
            (output, f'{label}_wf.inputnode.{field}')
            for output, field in zip(outputs, TEMPLATE_FIELDS, strict=True)
        ]
        workflow.connect([(prepare, single_subject_wf, edges)])
    first = next(iter(prepared.values()))
    workflow.connect([(first, single_subject_wf, TEMPLATE_EDGES)])


def _label(template: Template) -> str:
    """Return the name of a template as part of the names of nodes."""
    return f'{template.space}{template.cohort or ""}'


def _check_names(images: Sequence[Path]) -> None:
    """Refuse two images whose derivatives would overwrite each other."""
    seen: dict[Path, Path] = {}
    for image in images:
        derivative = derivative_path(image, desc='preproc')
        if derivative in seen:
            raise InputError(
                f'its derivatives would have the same names as those of {seen[derivative]}',
                advice='rename or remove one of them',
                path=image,
            )
        seen[derivative] = image


def _set_crash_dir(workflow: LiterateWorkflow, folder: Path) -> None:
    """Let Nipype write the crash files of a workflow to a folder of its own."""
    for name in workflow.list_node_names():
        workflow.get_node(name).config = {'execution': {'crashdump_dir': str(folder)}}
