"""Registration as sMRIPrep and fMRIPrep ask for it, to be spliced into their workflows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine import tag

from deepreg_wf.interfaces.anatomical import SkullStrip
from deepreg_wf.interfaces.template import PrepareTemplate, SelectTemplate
from deepreg_wf.interfaces.transforms import ResampleTransform
from deepreg_wf.settings import Registration
from deepreg_wf.workflows.registration import init_registration_wf

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

DEFAULTS = Registration()
"""How brains are registered unless told otherwise."""

_INPUTS = ('moving_image', 'moving_mask', 'lesion_mask', 'template')
_OUTPUTS = ('anat2std_xfm', 'std2anat_xfm', 'template', 'template_spec')
_DESCRIPTION = """\
Volume-based spatial normalization to {spaces} was performed by geodesic shooting with \
*deepreg_wf*.
"""


@tag('anat.register-template')
def init_register_template_wf(
    *,
    sloppy: bool,
    omp_nthreads: int,
    templates: Sequence[str],
    image_type: str = 'T1w',
    registration: Registration = DEFAULTS,
    device: str = 'cpu',
    cache_dir: Path | None = None,
    name: str = 'register_template_wf',
) -> LiterateWorkflow:
    """Build the workflow that takes the place of sMRIPrep's spatial normalization.

    Its arguments, inputs, outputs and tag are those of
    ``smriprep.workflows.fit.registration.init_register_template_wf``; what is ours has defaults.
    Like that one it is run once for each template, and joined afterwards.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from deepreg_wf.workflows.smriprep import init_register_template_wf
            wf = init_register_template_wf(
                sloppy=False, omp_nthreads=1, templates=['MNI152NLin2009cAsym']
            )

    Parameters
    ----------
    sloppy : bool
        Fast and rough, for tests.
    omp_nthreads : int
        Threads of the nodes that can use several.
    templates : sequence of str
        ``NAME[:cohort-X][:res-Y]`` of each template; its files have to be in the TemplateFlow
        home already, where sMRIPrep puts them.
    image_type : {'T1w'}
        What the moving image is; the networks know no other.
    registration : Registration
        Where the momentum comes from and on which grid it lives.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    cache_dir : Path, optional
        Folder for what is derived from the bundled template; that of the node by default.
    name : str
        Name of the workflow.

    Inputs
    ------
    moving_image
        The image that is normalized, corrected for bias
    moving_mask
        Its brain mask
    lesion_mask
        (optional) Where the image shows a lesion, which nothing of the template corresponds to
    template
        Template, with its cohort; iterates over `templates`

    Outputs
    -------
    anat2std_xfm
        The transform that resamples the image onto the template (ITK composite); its field has
        voxels of 1 mm and covers the template, as all versions of fMRIPrep expect
    std2anat_xfm
        The transform that resamples the template onto the image
    template
        Name of the template, with its cohort
    template_spec
        The rest of its specification

    Raises
    ------
    ValueError
        If the image is no T1-weighted one.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    if image_type != 'T1w':
        raise ValueError(f'the networks know T1-weighted images only, not {image_type}')
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _DESCRIPTION.format(spaces=', '.join(f'*{t}*' for t in templates))
    inputnode = pe.Node(niu.IdentityInterface(fields=[*_INPUTS]), name='inputnode')
    inputnode.iterables = [('template', list(templates))]
    select = SelectTemplate(resolution=1 + sloppy)
    if cache_dir is not None:
        select.inputs.cache_dir = str(cache_dir)
    select_template = pe.Node(select, name='select_template', mem_gb=0.5)
    prepare = PrepareTemplate(resolution=registration.registration_resolution)
    prepare_template = pe.Node(prepare, name='prepare_template', mem_gb=0.5)
    # Nothing is stripped where there is a mask: this is the image within it.
    brain = pe.Node(SkullStrip(), name='brain', mem_gb=0.5)
    registration_wf = init_registration_wf(
        momentum=registration.momentum,
        refine=registration.refine,
        direction=registration.direction,
        affine_method=registration.affine_method,
        affine_polish=registration.affine_polish,
        device=device,
        omp_nthreads=omp_nthreads,
        sloppy=sloppy,
    )
    workflow.connect(
        [
            (inputnode, select_template, [('template', 'template')]),
            (inputnode, brain, [('moving_image', 'in_file'), ('moving_mask', 'in_mask')]),
            (inputnode, registration_wf, [('moving_image', 'inputnode.t1w_file')]),
            (inputnode, registration_wf, [('lesion_mask', 'inputnode.lesion_mask')]),
            (select_template, prepare_template, [('t1w', 'in_file'), ('mask', 'in_mask')]),
            (prepare_template, registration_wf, _edges(_TEMPLATE)),
            (brain, registration_wf, _edges(_BRAIN)),
        ]
    )
    _join(workflow, select_template, registration_wf)
    return workflow


_TEMPLATE = {'t1w_brain': 'template_brain', 'brain_mask': 'template_mask'}
_BRAIN = {'out_file': 't1w_brain', 'out_mask': 't1w_mask'}


def _edges(names: dict[str, str]) -> list[tuple[str, str]]:
    return [(source, f'inputnode.{target}') for source, target in names.items()]


def _join(workflow: LiterateWorkflow, select_template: pe.Node, registration_wf: Any) -> None:
    """Add both nodes of outputs: of each template, and of all together."""
    each = pe.Node(niu.IdentityInterface(fields=[*_OUTPUTS]), name='poutputnode')
    joined = pe.JoinNode(
        niu.IdentityInterface(fields=[*_OUTPUTS]), name='outputnode', joinsource='inputnode'
    )
    # On the grid that fMRIPrep expects where it reads the field by itself.
    spread = pe.Node(ResampleTransform(), name='spread', mem_gb=1.0)
    workflow.connect(
        [
            (select_template, each, [('name', 'template'), ('spec', 'template_spec')]),
            (
                registration_wf,
                each,
                [('outputnode.std2t1w', 'std2anat_xfm')],
            ),
            (registration_wf, spread, [('outputnode.t1w2std', 'in_file')]),
            (select_template, spread, [('t1w', 'reference_image')]),
            (spread, each, [('out_file', 'anat2std_xfm')]),
            (each, joined, [(field, field) for field in _OUTPUTS]),
        ]
    )
