"""Brain extraction and bias correction of a T1-weighted image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.bids.precomputed import NO_PRECOMPUTED, Precomputed
from deepreg_wf.interfaces._tensors import compute_inputs
from deepreg_wf.interfaces.anatomical import BiasCorrect, SkullStrip, ValidateT1w
from deepreg_wf.interfaces.checks import RaiseIfImplausible
from deepreg_wf.interfaces.qc import InputQC
from deepreg_wf.settings import Anatomical, Compute

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

_STRIPPING = {
    'auto': """\
Images that already showed nothing but a brain, as judged from their background and from the \
volume,
the shape and the outer layers of the rest, were kept as they were. In all others the brain was
extracted with {citation}.

""",
    'force': 'The brain was extracted with {citation}.\n\n',
    'skip': 'All voxels above the background were taken as brain.\n\n',
}
_PRECOMPUTED_MASK = """\
Brain masks that other software had computed beforehand were used where available.

"""
_PRECOMPUTED_T1W = """\
T1-weighted images that other software had corrected for intensity non-uniformity beforehand were \
used
where available.

"""
_BIAS = """\
The T1-weighted image was corrected for intensity non-uniformity within the brain with
*N4BiasFieldCorrection* [@n4], distributed with ANTs [@ants].

"""

TEMPLATE_EDGES = [
    ('t1w_brain', 'anat_preproc_wf.inputnode.template_brain'),
    ('brain_mask', 'anat_preproc_wf.inputnode.template_mask'),
]
"""Edges from `prepare_template` to a workflow that contains `anat_preproc_wf`."""

_INPUTS = ('t1w', 'template_brain', 'template_mask')
_OUTPUTS = (
    't1w_valid',
    't1w_preproc',
    't1w_brain',
    't1w_mask',
    't1w_mask_found',
    'skull_strip_method',
    'input_measures',
)


def init_anat_preproc_wf(
    *,
    anatomical: Anatomical = Anatomical(),
    compute: Compute = Compute(),
    precomputed: Precomputed = NO_PRECOMPUTED,
    name: str = 'anat_preproc_wf',
) -> LiterateWorkflow:
    """Build the workflow that extracts the brain of an image and corrects its bias field.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from deepreg_wf.workflows.anatomical import init_anat_preproc_wf
            wf = init_anat_preproc_wf()

    Parameters
    ----------
    anatomical : Anatomical
        Brain extraction.
    compute : Compute
        Device, threads and quality of the computations.
    precomputed : Precomputed
        Results of other programs for the image: a mask, in place of skull stripping, and a
        preprocessed image, in place of bias correction, which then is the input of this workflow.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w
        The raw image, or the preprocessed one of `precomputed`
    template_brain, template_mask
        (optional) Brain of a template and its mask, which a plausible brain has to resemble

    Outputs
    -------
    t1w_valid
        The input in float32, finite, with three axes
    t1w_preproc
        Bias-corrected image, whole
    t1w_brain
        Bias-corrected brain, zero outside of the mask
    t1w_mask, t1w_mask_found
        Brain mask; the second is set even if it is implausible, for the report
    skull_strip_method
        Source of the mask: a method, 'already-extracted', 'precomputed' or 'none'
    input_measures
        Measures of the image and of the mask, in their own space (JSON)

    Returns
    -------
    LiterateWorkflow
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _describe(anatomical, precomputed)
    inputnode = pe.Node(niu.IdentityInterface(fields=[*_INPUTS]), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(fields=[*_OUTPUTS]), name='outputnode')
    validate = pe.Node(ValidateT1w(), name='validate', mem_gb=0.25)
    skullstrip = _skullstrip_node(anatomical, compute, precomputed)
    check = pe.Node(RaiseIfImplausible(), name='check', run_without_submitting=True)
    quality = pe.Node(InputQC(), name='quality', mem_gb=0.75)
    template = [('template_brain', 'template'), ('template_mask', 'template_mask')]
    found = ('nonfinite_voxels', 'form_distance_mm')
    mask = [('out_mask', 't1w_mask_found'), ('method', 'skull_strip_method')]
    workflow.connect(
        [
            (inputnode, validate, [('t1w', 'in_file')]),
            (inputnode, skullstrip, [('t1w', 'source_file'), *template]),
            (inputnode, check, [('t1w', 'source_file')]),
            (
                skullstrip,
                check,
                [('out_mask', 'in_file'), ('problem', 'problem'), ('advice', 'advice')],
            ),
            (check, outputnode, [('out_file', 't1w_mask')]),
            (validate, skullstrip, [('out_file', 'in_file')]),
            (validate, outputnode, [('out_file', 't1w_valid')]),
            (skullstrip, outputnode, mask),
            (validate, quality, [('out_file', 'in_file'), *((name, name) for name in found)]),
            (check, quality, [('out_file', 'in_mask')]),
            (quality, outputnode, [('out_file', 'input_measures')]),
        ]
    )
    if precomputed.t1w is not None:
        workflow.connect(validate, 'out_file', outputnode, 't1w_preproc')
        workflow.connect(skullstrip, 'out_file', outputnode, 't1w_brain')
        return workflow
    bias = pe.Node(BiasCorrect(sloppy=compute.sloppy), name='bias', mem_gb=0.75)
    workflow.connect(
        [
            (validate, bias, [('out_file', 'in_file')]),
            (check, bias, [('out_file', 'in_mask')]),
            (bias, outputnode, [('out_file', 't1w_preproc'), ('out_brain', 't1w_brain')]),
        ]
    )
    return workflow


def _skullstrip_node(
    anatomical: Anatomical, compute: Compute, precomputed: Precomputed
) -> pe.Node:
    strip = SkullStrip(
        mode=anatomical.skull_strip,
        method=anatomical.skull_strip_method,
        **compute_inputs(compute),
    )
    if anatomical.skull_strip_model is not None:
        strip.inputs.model = str(anatomical.skull_strip_model)
    if precomputed.mask is not None:
        strip.inputs.in_mask = str(precomputed.mask)
    return pe.Node(strip, name='skullstrip', n_procs=compute.n_procs, mem_gb=1.5)


def _describe(anatomical: Anatomical, precomputed: Precomputed) -> str:
    from deepreg_wf.anatomical.skullstrip.extract import METHODS, choose_methods

    methods = choose_methods(anatomical.skull_strip_method, anatomical.skull_strip_model)
    citation = ' or, where its mask was implausible, '.join(
        METHODS[method].citation for method in methods
    )
    stripping = _STRIPPING[anatomical.skull_strip].format(citation=citation)
    return (_PRECOMPUTED_MASK if precomputed.mask else stripping) + (
        _PRECOMPUTED_T1W if precomputed.t1w else _BIAS
    )
