"""From the raw T1-weighted image to an even brain and its mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.bids.precomputed import NOTHING, Precomputed
from deepreg_wf.interfaces.anatomical import BiasCorrect, SkullStrip, ValidateT1w
from deepreg_wf.interfaces.checks import StopOnDoubt
from deepreg_wf.settings import Anatomical

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

_DEFAULTS = Anatomical()
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
LIKE_TEMPLATE = [
    ('t1w_brain', 'anat_preproc_wf.inputnode.template_brain'),
    ('brain_mask', 'anat_preproc_wf.inputnode.template_mask'),
]
"""Edges from a prepared template to a workflow that holds the one below."""

_INPUTS = ('t1w', 'template_brain', 'template_mask')
_OUTPUTS = (
    't1w_valid',
    't1w_preproc',
    't1w_brain',
    't1w_mask',
    't1w_mask_found',
    'skull_strip_method',
)


def init_anat_preproc_wf(
    *,
    anatomical: Anatomical = _DEFAULTS,
    omp_nthreads: int = 1,
    sloppy: bool = False,
    device: str = 'cpu',
    precomputed: Precomputed = NOTHING,
    name: str = 'anat_preproc_wf',
) -> LiterateWorkflow:
    """Build the workflow that validates an image, finds its brain and evens it out.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from deepreg_wf.workflows.anatomical import init_anat_preproc_wf
            wf = init_anat_preproc_wf()

    Parameters
    ----------
    anatomical : Anatomical
        How the brain is taken out of the image.
    omp_nthreads : int
        Threads on the CPU.
    sloppy : bool
        Fast and rough, for tests.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    precomputed : Precomputed
        What other programs have made of the image: a mask, in place of skull stripping, and a
        preprocessed image, in place of bias correction; it then is the input of this workflow.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w
        The raw image, or the preprocessed one of `precomputed`
    template_brain, template_mask
        (optional) Brain of a template and its mask: what is taken for the brain has to be like it

    Outputs
    -------
    t1w_valid
        The input in float32, finite, with three axes
    t1w_preproc
        Bias-corrected image, whole
    t1w_brain
        Bias-corrected brain, zero outside of the mask
    t1w_mask
        Brain mask
    t1w_mask_found
        The same, also where it is refused, for a picture of it
    skull_strip_method
        What gave the mask: a method, 'already-extracted', 'precomputed' or 'none'
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.anatomical.skullstrip.extract import METHODS, choose_methods

    names = choose_methods(anatomical.skull_strip_method, anatomical.skull_strip_model)
    citation = ' or, where its mask was implausible, '.join(
        METHODS[name].citation for name in names
    )
    workflow = LiterateWorkflow(name=name)
    stripping = _STRIPPING[anatomical.skull_strip].format(citation=citation)
    workflow.__desc__ = (_PRECOMPUTED_MASK if precomputed.mask else stripping) + (
        _PRECOMPUTED_T1W if precomputed.t1w else _BIAS
    )
    inputnode = pe.Node(niu.IdentityInterface(fields=[*_INPUTS]), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(fields=[*_OUTPUTS]), name='outputnode')
    validate = pe.Node(ValidateT1w(), name='validate', mem_gb=0.25)
    on_gpu = device != 'cpu'
    strip = SkullStrip(
        mode=anatomical.skull_strip,
        method=anatomical.skull_strip_method,
        num_threads=omp_nthreads,
        device=device,
        use_gpu=on_gpu,
    )
    if anatomical.skull_strip_model is not None:
        strip.inputs.model = str(anatomical.skull_strip_model)
    if precomputed.mask is not None:
        strip.inputs.in_mask = str(precomputed.mask)
    skullstrip = pe.Node(
        strip, name='skullstrip', n_procs=1 if on_gpu else omp_nthreads, mem_gb=1.5
    )
    trust = pe.Node(StopOnDoubt(), name='trust', run_without_submitting=True)
    template = [('template_brain', 'template'), ('template_mask', 'template_mask')]
    workflow.connect(
        [
            (inputnode, validate, [('t1w', 'in_file')]),
            (inputnode, skullstrip, [('t1w', 'source_file'), *template]),
            (inputnode, trust, [('t1w', 'source_file')]),
            (skullstrip, trust, [('out_mask', 'in_file'), ('doubt', 'doubt')]),
            (trust, outputnode, [('out_file', 't1w_mask')]),
            (validate, skullstrip, [('out_file', 'in_file')]),
            (validate, outputnode, [('out_file', 't1w_valid')]),
            (
                skullstrip,
                outputnode,
                [('out_mask', 't1w_mask_found'), ('method', 'skull_strip_method')],
            ),
        ]
    )
    if precomputed.t1w is not None:
        workflow.connect(validate, 'out_file', outputnode, 't1w_preproc')
        workflow.connect(skullstrip, 'out_file', outputnode, 't1w_brain')
        return workflow
    bias = pe.Node(BiasCorrect(sloppy=sloppy), name='bias', mem_gb=0.75)
    workflow.connect(
        [
            (validate, bias, [('out_file', 'in_file')]),
            (trust, bias, [('out_file', 'in_mask')]),
            (bias, outputnode, [('out_file', 't1w_preproc'), ('out_brain', 't1w_brain')]),
        ]
    )
    return workflow
