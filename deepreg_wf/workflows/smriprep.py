"""Registration workflow with the interface of sMRIPrep, to be spliced into its workflows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine import tag

from deepreg_wf.errors import InputError
from deepreg_wf.interfaces.anatomical import SkullStrip
from deepreg_wf.interfaces.template import PrepareTemplate, SelectTemplate
from deepreg_wf.interfaces.transforms import ResampleTransform
from deepreg_wf.settings import Compute, Registration
from deepreg_wf.workflows.registration import init_registration_wf

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

_INPUTS = ('moving_image', 'moving_mask', 'lesion_mask', 'template')
_OUTPUTS = ('anat2std_xfm', 'std2anat_xfm', 'template', 'template_spec')
_DESCRIPTION = """\
Volume-based spatial normalization to {spaces} was performed by geodesic shooting with \
*deepreg_wf*.
"""


@tag('anat.register-template')  # type: ignore[untyped-decorator]
def init_register_template_wf(
    *,
    sloppy: bool,
    omp_nthreads: int,
    templates: Sequence[str],
    image_type: str = 'T1w',
    registration: Registration = Registration(),
    device: str = 'cpu',
    cache_dir: Path | None = None,
    name: str = 'register_template_wf',
) -> LiterateWorkflow:
    """Build the workflow that replaces the spatial normalization of sMRIPrep.

    The inputs, outputs, tag and required arguments are those of
    ``smriprep.workflows.fit.registration.init_register_template_wf``. Like that workflow it
    iterates over the templates and joins their results.

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
        Compute fast and at low quality, for tests.
    omp_nthreads : int
        Threads of each node that can use several.
    templates : sequence of str
        ``NAME[:cohort-X][:res-Y]`` of each template. Its files have to be in the TemplateFlow
        home, where sMRIPrep puts them.
    image_type : {'T1w'}
        Contrast of the moving image; the networks are trained on no other.
    registration : Registration
        Affine and deformable registration, without an uncertainty: sMRIPrep has no place for it.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    cache_dir : Path, optional
        Folder for files derived from the bundled template; the folder of the node by default.
    name : str
        Name of the workflow.

    Inputs
    ------
    moving_image, moving_mask
        The bias-corrected image that is registered, and its brain mask
    lesion_mask
        (optional) Lesion in the image, to which nothing of the template corresponds
    template
        Template, with its cohort; iterates over `templates`

    Outputs
    -------
    anat2std_xfm
        Transform that resamples the image onto the template (ITK composite); its field has voxels
        of 1 mm and covers the template, as all versions of fMRIPrep expect
    std2anat_xfm
        Transform that resamples the template onto the image
    template, template_spec
        Name of the template, with its cohort, and the rest of its specification

    Raises
    ------
    InputError
        If the image is not T1-weighted, if an uncertainty is asked for, or if a network is missing
        or does not fit the registration grid.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    _check_request(image_type, registration)
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _DESCRIPTION.format(spaces=', '.join(f'*{t}*' for t in templates))
    inputnode = pe.Node(niu.IdentityInterface(fields=[*_INPUTS]), name='inputnode')
    inputnode.iterables = [('template', list(templates))]
    # SkullStrip with a mask extracts nothing: it returns the image within the mask.
    brain = pe.Node(SkullStrip(), name='brain', mem_gb=0.5)
    registration_wf = init_registration_wf(
        registration=registration,
        compute=Compute(device=device, omp_nthreads=omp_nthreads, sloppy=sloppy),
    )
    brains = [('out_file', 'inputnode.t1w_brain'), ('out_mask', 'inputnode.t1w_mask')]
    workflow.connect(
        [
            (inputnode, brain, [('moving_image', 'in_file'), ('moving_mask', 'in_mask')]),
            (inputnode, registration_wf, [('moving_image', 'inputnode.t1w_file')]),
            (inputnode, registration_wf, [('lesion_mask', 'inputnode.lesion_mask')]),
            (brain, registration_wf, brains),
        ]
    )
    select = SelectTemplate(resolution=1 + sloppy)
    if cache_dir is not None:
        select.inputs.cache_dir = str(cache_dir)
    _add_template(workflow, select, registration)
    _add_outputs(workflow)
    return workflow


def _check_request(image_type: str, registration: Registration) -> None:
    """Raise InputError if the workflow cannot deliver what is asked for."""
    if image_type != 'T1w':
        raise InputError(
            f'image_type: the networks know T1-weighted images only, not {image_type}',
            advice='register the T1w image',
        )
    if registration.uncertainty:
        raise InputError(
            'uncertainty: sMRIPrep has no output for it',
            advice='set it to 0, or use init_registration_wf',
        )


def _add_template(
    workflow: LiterateWorkflow, select: SelectTemplate, registration: Registration
) -> None:
    """Add the nodes that find the template and resample it onto the registration grid."""
    inputnode, registration_wf = map(workflow.get_node, ('inputnode', 'registration_wf'))
    select_template = pe.Node(select, name='select_template', mem_gb=0.5)
    prepare = PrepareTemplate(resolution=registration.registration_resolution)
    prepare_template = pe.Node(prepare, name='prepare_template', mem_gb=0.5)
    prepared = [
        ('t1w_brain', 'inputnode.template_brain'),
        ('brain_mask', 'inputnode.template_mask'),
    ]
    workflow.connect(
        [
            (inputnode, select_template, [('template', 'template')]),
            (select_template, prepare_template, [('t1w', 'in_file'), ('mask', 'in_mask')]),
            (prepare_template, registration_wf, prepared),
        ]
    )


def _add_outputs(workflow: LiterateWorkflow) -> None:
    """Add the output nodes: one of each template, and one that joins all templates."""
    select_template, registration_wf = map(
        workflow.get_node, ('select_template', 'registration_wf')
    )
    each = pe.Node(niu.IdentityInterface(fields=[*_OUTPUTS]), name='poutputnode')
    joined = pe.JoinNode(
        niu.IdentityInterface(fields=[*_OUTPUTS]), name='outputnode', joinsource='inputnode'
    )
    # Some versions of fMRIPrep read the field themselves and expect this grid.
    resample_warp = pe.Node(ResampleTransform(), name='resample_warp', mem_gb=1.0)
    workflow.connect(
        [
            (select_template, each, [('name', 'template'), ('spec', 'template_spec')]),
            (registration_wf, each, [('outputnode.std2anat_xfm', 'std2anat_xfm')]),
            (registration_wf, resample_warp, [('outputnode.anat2std_xfm', 'in_file')]),
            (select_template, resample_warp, [('t1w', 'reference_image')]),
            (resample_warp, each, [('out_file', 'anat2std_xfm')]),
            (each, joined, [(field, field) for field in _OUTPUTS]),
        ]
    )
