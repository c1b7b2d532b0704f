"""The main job: all images of a dataset, and one image from the raw file to its derivatives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf import __version__
from deepreg_wf.derivatives import derivative_path, parse_entities
from deepreg_wf.errors import InputError
from deepreg_wf.interfaces.template import PrepareTemplate
from deepreg_wf.interfaces.transforms import ApplyTransforms
from deepreg_wf.precomputed import NOTHING, Precomputed
from deepreg_wf.settings import Registration
from deepreg_wf.templates import TEMPLATEFLOW_ROOT
from deepreg_wf.weights import Weights, find_weights
from deepreg_wf.workflows.anatomical import init_anat_preproc_wf
from deepreg_wf.workflows.outputs import init_outputs_wf
from deepreg_wf.workflows.quicksilver import is_matched
from deepreg_wf.workflows.registration import init_registration_wf
from deepreg_wf.workflows.reports import init_reportlets_wf

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.templates import Template

# A linear interpolation is what antsApplyTransforms does unless told otherwise, and it cannot
# ring: cubic and sinc kernels leave dark rims and negative values around extracted brains.
T1W_INTERPOLATION = 'linear'

DEFAULTS = Registration()
"""How brains are registered unless told otherwise."""

_TEMPLATE = ('template_brain', 'template_mask', 'template_reference')
_NATIVE = ('t1w_preproc', 't1w_mask', 'skull_strip_method')
_MAPS = ('momentum', 'log_jacobian', 'qc')
_DESCRIPTION = """\
The results in this manuscript come from registration with *deepreg_wf* {version}, a BIDS-App
[@bids; @bidsapps] based on *Nipype* [@nipype] and *NiWorkflows* [@niworkflows].

"""
_RESAMPLING = """\
The bias-corrected image and its mask were resampled onto the template *{space}*{citation} in one
step, with linear and nearest-neighbor interpolation.

"""


def init_deepreg_wf(
    *,
    subjects: Mapping[str, Sequence[Path]],
    bids_dir: Path,
    output_dir: Path,
    template: Template,
    skull_strip: str = 'auto',
    skull_strip_method: str = 'auto',
    precomputed: Mapping[Path, Precomputed] | None = None,
    registration: Registration = DEFAULTS,
    device: str = 'cpu',
    omp_nthreads: int = 1,
    batch_size: int = 32,
    random_seed: int = 0,
    sloppy: bool = False,
    run_id: str,
    name: str = 'deepreg_wf',
) -> LiterateWorkflow:
    """Build the workflow that registers every T1-weighted image of a dataset.

    The template is prepared once; every image then has a workflow of its own, so that a bad one
    stops nothing but itself.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from pathlib import Path
            from deepreg_wf.templates import Template
            from deepreg_wf.workflows.base import init_deepreg_wf
            wf = init_deepreg_wf(
                subjects={'01': [Path('/data/sub-01/anat/sub-01_T1w.nii.gz')]},
                bids_dir=Path('/data'),
                output_dir=Path('/out'),
                template=Template(space='MNI152NLin2009aSym', t1w=Path('template.nii.gz')),
                run_id='20250101-000000',
            )

    Parameters
    ----------
    subjects : mapping of str to sequence of Path
        The T1-weighted images of each participant, by label.
    bids_dir, output_dir : Path
        Folders of the raw dataset and of the derivatives.
    template : Template
        What is registered to.
    skull_strip : {'auto', 'force', 'skip'}
        Whether images that are of the brain only already are stripped.
    skull_strip_method : {'auto', 'deepbet'}
        What strips.
    precomputed : mapping of Path to Precomputed, optional
        Masks and preprocessed images that other programs have made, by raw image.
    registration : Registration
        Where the momentum comes from and on which grid it lives.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    omp_nthreads : int
        Threads of the nodes that can use several.
    batch_size : int
        Patches that go through a network at once, at most.
    random_seed : int
        Seed of the affine registration, and of the momenta that are drawn.
    sloppy : bool
        Fast and rough, for tests.
    run_id : str
        Names the folder of this run's log, ``sub-X/log/<run_id>``, where crash files go.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    Raises
    ------
    InputError
        If two images would share the names of their derivatives.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    images = [image for files in subjects.values() for image in files]
    _check_names(images)
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _DESCRIPTION.format(version=__version__)
    prepare = prepare_template(template, registration.registration_resolution)
    for image in images:
        single_subject_wf = init_single_subject_wf(
            t1w_file=image,
            bids_dir=bids_dir,
            output_dir=output_dir,
            template=template,
            skull_strip=skull_strip,
            skull_strip_method=skull_strip_method,
            precomputed=(precomputed or {}).get(image, NOTHING),
            registration=registration,
            device=device,
            omp_nthreads=omp_nthreads,
            batch_size=batch_size,
            random_seed=random_seed,
            sloppy=sloppy,
            name=single_subject_name(image),
        )
        log_dir = output_dir / f'sub-{parse_entities(image)["subject"]}' / 'log' / run_id
        _keep_crashes(single_subject_wf, log_dir)
        prepared = zip(('t1w_brain', 'brain_mask', 'reference'), _TEMPLATE, strict=True)
        edges = [(source, f'inputnode.{target}') for source, target in prepared]
        workflow.connect([(prepare, single_subject_wf, edges)])
    return workflow


def init_single_subject_wf(
    *,
    t1w_file: Path,
    bids_dir: Path,
    output_dir: Path,
    template: Template,
    skull_strip: str = 'auto',
    skull_strip_method: str = 'auto',
    precomputed: Precomputed = NOTHING,
    registration: Registration = DEFAULTS,
    device: str = 'cpu',
    omp_nthreads: int = 1,
    batch_size: int = 32,
    random_seed: int = 0,
    sloppy: bool = False,
    name: str = 'single_subject_wf',
) -> LiterateWorkflow:
    """Build the workflow that takes one image from the raw file to its derivatives and figures.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from pathlib import Path
            from deepreg_wf.templates import Template
            from deepreg_wf.workflows.base import init_single_subject_wf
            wf = init_single_subject_wf(
                t1w_file=Path('/data/sub-01/anat/sub-01_T1w.nii.gz'),
                bids_dir=Path('/data'),
                output_dir=Path('/out'),
                template=Template(space='MNI152NLin2009aSym', t1w=Path('template.nii.gz')),
            )

    Parameters
    ----------
    t1w_file : Path
        The raw image.
    precomputed : Precomputed
        What other programs have made of it.
    bids_dir, output_dir, template, skull_strip, skull_strip_method, registration, device, \
omp_nthreads, batch_size, random_seed, sloppy
        As in `init_deepreg_wf`.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w
        The image; set to `t1w_file`, or to what was made of it before
    template_brain, template_mask
        Template and its mask on the registration grid
    template_reference
        Template on the output grid

    Returns
    -------
    LiterateWorkflow
        It writes its results and has no outputs.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=['t1w', *_TEMPLATE]), name='inputnode')
    inputnode.inputs.t1w = str(precomputed.t1w or t1w_file)
    anat_wf = init_anat_preproc_wf(
        skull_strip=skull_strip,
        skull_strip_method=skull_strip_method,
        omp_nthreads=omp_nthreads,
        sloppy=sloppy,
        device=device,
        precomputed=precomputed,
    )
    registration_wf = init_registration_wf(
        momentum=registration.momentum,
        refine=registration.refine,
        uncertainty=registration.uncertainty,
        weights=_find_weights(registration),
        direction=registration.direction,
        device=device,
        omp_nthreads=omp_nthreads,
        batch_size=batch_size,
        random_seed=random_seed,
        sloppy=sloppy,
    )
    outputs_wf = init_outputs_wf(
        t1w_file=t1w_file,
        bids_dir=bids_dir,
        output_dir=output_dir,
        template=template,
        registration_resolution=registration.registration_resolution,
        direction=registration.direction,
        uncertainty=registration.uncertainty > 0,
        sources=precomputed.sources,
    )
    matched = is_matched(registration.momentum, registration.refine)
    reportlets_wf = init_reportlets_wf(
        output_dir=output_dir,
        t1w_file=t1w_file,
        template=template,
        convergence=matched,
        uncertainty=registration.uncertainty > 0,
    )
    maps = [*_MAPS, *(['uncertainty'] if registration.uncertainty else [])]
    traces = ['matching_trace'] if matched else []
    workflow.connect(
        [
            (inputnode, anat_wf, [('t1w', 'inputnode.t1w')]),
            (inputnode, registration_wf, [(name, f'inputnode.{name}') for name in _TEMPLATE[:2]]),
            (inputnode, registration_wf, [('t1w', 'inputnode.t1w_file')]),
            (anat_wf, registration_wf, _edges('t1w_brain', 't1w_mask')),
            (anat_wf, outputs_wf, _edges(*_NATIVE)),
            (anat_wf, reportlets_wf, _edges(*_NATIVE)),
            (registration_wf, outputs_wf, _edges('t1w2std', 'std2t1w', 'trace', *maps)),
            (registration_wf, reportlets_wf, _edges('t1w_affine', *traces, *maps)),
        ]
    )
    _resample(workflow)
    workflow.__postdesc__ = _RESAMPLING.format(space=template.space, citation=_cite(template))
    return workflow


def _find_weights(registration: Registration) -> Weights:
    return find_weights(
        momentum=registration.momentum,
        uncertainty=registration.uncertainty,
        resolution=registration.registration_resolution,
        folder=registration.weights,
    )


def image_names(images: Iterable[Path]) -> dict[str, str]:
    """Names to show, such as ``sub-01_ses-pre``, by the name of the workflow of each image.

    Examples
    --------
    >>> image_names([Path('sub-01_T1w.nii.gz')])
    {'single_subject_01_wf': 'sub-01'}
    """
    return {single_subject_name(image): image.name.rpartition('_')[0] for image in images}


def single_subject_name(t1w_file: Path) -> str:
    """Name of the workflow of an image, which carries the entities of its file.

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


def _edges(*names: str) -> list[tuple[str, str]]:
    """Edges from the outputs of a workflow to the inputs of the same name of another."""
    return [(f'outputnode.{name}', f'inputnode.{name}') for name in names]


def prepare_template(template: Template, resolution: float) -> pe.Node:
    """Node that brings the brain of a template onto its registration grid, voxels in mm."""
    prepare = PrepareTemplate(in_file=str(template.t1w), resolution=resolution)
    if template.mask is not None:
        prepare.inputs.in_mask = str(template.mask)
    return pe.Node(prepare, name='prepare_template', mem_gb=1.0)


def _resample(workflow: LiterateWorkflow) -> None:
    """Add the nodes that resample the image and its mask, once, onto the output grid."""
    for source, interpolation, target in (
        ('t1w_preproc', T1W_INTERPOLATION, 't1w_std'),
        ('t1w_mask', 'nearest', 'mask_std'),
    ):
        resample = pe.Node(
            ApplyTransforms(interpolation=interpolation), name=f'apply_{source}', mem_gb=1.5
        )
        workflow.connect(
            [
                (
                    workflow.get_node('inputnode'),
                    resample,
                    [('template_reference', 'reference_image')],
                ),
                (
                    workflow.get_node('anat_preproc_wf'),
                    resample,
                    [(f'outputnode.{source}', 'in_file')],
                ),
                (
                    workflow.get_node('registration_wf'),
                    resample,
                    [('outputnode.t1w2std', 'transform')],
                ),
                *(
                    (resample, workflow.get_node(name), [('out_file', f'inputnode.{target}')])
                    for name in ('outputs_wf', 'reportlets_wf')
                ),
            ]
        )


def _cite(template: Template) -> str:
    if template.space.startswith('MNI152NLin2009'):
        return ' [@mni2009]'
    return ' [@templateflow]' if template.uri.startswith(TEMPLATEFLOW_ROOT) else ''


def _check_names(images: Sequence[Path]) -> None:
    """Refuse two images whose derivatives would overwrite each other."""
    seen: dict[Path, Path] = {}
    for image in images:
        name = derivative_path(image, desc='preproc')
        if name in seen:
            raise InputError(
                f'{image}: its derivatives would have the names of those of {seen[name]}; '
                'rename or remove one of them.'
            )
        seen[name] = image


def _keep_crashes(workflow: LiterateWorkflow, folder: Path) -> None:
    """Have Nipype write the crash files of a workflow to a folder of its own."""
    for name in workflow.list_node_names():
        workflow.get_node(name).config = {'execution': {'crashdump_dir': str(folder)}}
