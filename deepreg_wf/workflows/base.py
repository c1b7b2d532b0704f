"""The main job: all images of a dataset, and one image from the raw file to its derivatives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf import __version__
from deepreg_wf.bids.entities import derivative_path, parse_entities
from deepreg_wf.bids.precomputed import NOTHING, Precomputed
from deepreg_wf.errors import InputError
from deepreg_wf.interfaces.template import PrepareTemplate
from deepreg_wf.settings import Anatomical, Registration
from deepreg_wf.utils.locks import locked
from deepreg_wf.workflows.anatomical import LIKE_TEMPLATE, init_anat_preproc_wf
from deepreg_wf.workflows.standard_space import DEFAULTS, FOUND, NATIVE, TEMPLATE, init_space_wf

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.templates.template import Template

ANATOMICAL = Anatomical()
"""How brains are found unless told otherwise."""

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
    anatomical: Anatomical = ANATOMICAL,
    precomputed: Mapping[Path, Precomputed] | None = None,
    lesions: Mapping[Path, Path] | None = None,
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

    Templates are prepared once; every image then has a workflow of its own, so that a bad one
    stops nothing but itself.

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
        The T1-weighted images of each participant, by label.
    bids_dir, output_dir : Path
        Folders of the raw dataset and of the derivatives.
    templates : sequence of Template
        What is registered to, each on its own.
    level : {'minimal', 'full'}
        Which derivatives are stored, as in `init_outputs_wf`.
    anatomical : Anatomical
        How the brain is taken out of the image.
    precomputed : mapping of Path to Precomputed, optional
        Masks and preprocessed images that other programs have made, by raw image.
    lesions : mapping of Path to Path, optional
        Masks of lesions, by raw image.
    registration : Registration
        Where the momentum comes from and on which grid it lives.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    omp_nthreads : int
        Threads of the nodes that can use several.
    batch_size : int
        Patches that go through a network at once, at most.
    random_seed : int
        Of the momenta that are drawn.
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
    resolution = registration.registration_resolution
    prepared = {
        _label(template): prepare_template(template, resolution, f'prepare_{_label(template)}')
        for template in templates
    }
    for image in images:
        single_subject_wf = init_single_subject_wf(
            t1w_file=image,
            bids_dir=bids_dir,
            output_dir=output_dir,
            templates=templates,
            level=level,
            anatomical=anatomical,
            precomputed=(precomputed or {}).get(image, NOTHING),
            lesion=(lesions or {}).get(image),
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
        for label, prepare in prepared.items():
            shared = zip(('t1w_brain', 'brain_mask', 'reference'), TEMPLATE, strict=True)
            edges = [(source, f'{label}_wf.inputnode.{target}') for source, target in shared]
            workflow.connect([(prepare, single_subject_wf, edges)])
        first = next(iter(prepared.values()))
        workflow.connect([(first, single_subject_wf, LIKE_TEMPLATE)])
    return workflow


def init_single_subject_wf(
    *,
    t1w_file: Path,
    bids_dir: Path,
    output_dir: Path,
    templates: Sequence[Template],
    level: str = 'full',
    anatomical: Anatomical = ANATOMICAL,
    precomputed: Precomputed = NOTHING,
    lesion: Path | None = None,
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
                t1w_file=Path('bids/sub-01/anat/sub-01_T1w.nii.gz'),
                bids_dir=Path('bids'),
                output_dir=Path('out'),
                templates=[Template(space='MNI152NLin2009aSym', t1w=Path('template.nii.gz'))],
            )

    Parameters
    ----------
    t1w_file : Path
        The raw image.
    precomputed : Precomputed
        What other programs have made of it.
    lesion : Path, optional
        Mask of a lesion in it.
    bids_dir, output_dir, templates, level, anatomical, registration, device, omp_nthreads, \
batch_size, random_seed, sloppy
        As in `init_deepreg_wf`.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w
        The image; set to `t1w_file`, or to what was made of it before

    The workflow of each template, ``SPACE_wf``, takes what was prepared of it; see
    `deepreg_wf.workflows.standard_space.init_space_wf`. That of the image, ``anat_preproc_wf``,
    takes one that brains are to be like.

    Returns
    -------
    LiterateWorkflow
        It writes its results and has no outputs.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=['t1w']), name='inputnode')
    inputnode.inputs.t1w = str(precomputed.t1w or t1w_file)
    anat_wf = init_anat_preproc_wf(
        anatomical=anatomical,
        omp_nthreads=omp_nthreads,
        sloppy=sloppy,
        device=device,
        precomputed=precomputed,
    )
    workflow.connect(inputnode, 't1w', anat_wf, 'inputnode.t1w')
    names = dict.fromkeys(('t1w_brain', *NATIVE, *FOUND))
    for number, template in enumerate(templates):
        space_wf = init_space_wf(
            t1w_file=t1w_file,
            bids_dir=bids_dir,
            output_dir=output_dir,
            template=template,
            native=templates if number == 0 else (),
            sources=precomputed.sources,
            lesion=lesion,
            level=level,
            registration=registration,
            device=device,
            omp_nthreads=omp_nthreads,
            batch_size=batch_size,
            random_seed=random_seed,
            sloppy=sloppy,
            name=f'{_label(template)}_wf',
        )
        edges = [(f'outputnode.{name}', f'inputnode.{name}') for name in names]
        workflow.connect([(anat_wf, space_wf, edges), (inputnode, space_wf, [_T1W])])
    return workflow


_T1W = ('t1w', 'inputnode.t1w')


def _label(template: Template) -> str:
    """Name of a template among those of nodes."""
    return f'{template.space}{template.cohort or ""}'


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


def prepare_template(
    template: Template, resolution: float, name: str = 'prepare_template'
) -> pe.Node:
    """Node that brings the brain of a template onto its registration grid, voxels in mm."""
    prepare = PrepareTemplate(in_file=str(template.t1w), resolution=resolution)
    if template.mask is not None:
        prepare.inputs.in_mask = str(template.mask)
    # Runs that share a working directory share it only if it is the very same.
    what = f'{template.t1w} {template.mask} {resolution}'
    digest = sha256(what.encode()).hexdigest()[:8]
    return SharedNode(prepare, name=f'{name}_{digest}', mem_gb=0.5)


class SharedNode(pe.Node):
    """A node that several runs in one working directory share: one runs, the others wait."""

    def run(self, updatehash: bool = False) -> Any:
        """Run, or take what another has made meanwhile.

        Parameters
        ----------
        updatehash : bool
            As Nipype has it.

        Returns
        -------
        InterfaceResult
        """
        folder = Path(self.output_dir())
        with locked(folder.with_name(f'.{folder.name}.lock')):
            return super().run(updatehash)


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
