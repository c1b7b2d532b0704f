"""From the raw T1-weighted image to an even brain and its mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.interfaces.anatomical import BiasCorrect, SkullStrip, ValidateT1w

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

_STRIPPING = {
    'auto': """\
Whether the image showed a brain only was told from its background, from the volume and shape of
the rest and from its outer layers; where it did, that brain was kept, and otherwise the brain was
extracted with {citation}. """,
    'force': 'The brain was extracted with {citation}. ',
    'skip': 'All of the image but its background was taken as brain. ',
}
_BIAS = """\
The T1-weighted image was corrected for intensity non-uniformity within the brain with
*N4BiasFieldCorrection* [@n4], from ANTs [@ants].

"""
_OUTPUTS = ('t1w_valid', 't1w_preproc', 't1w_brain', 't1w_mask', 'skull_strip_method')


def init_anat_preproc_wf(
    *,
    skull_strip: str = 'auto',
    skull_strip_method: str = 'auto',
    omp_nthreads: int = 1,
    sloppy: bool = False,
    device: str = 'cpu',
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
    skull_strip : {'auto', 'force', 'skip'}
        Strip what is not recognised as a brain already, strip in any case, or take the image as
        it is.
    skull_strip_method : str
        What strips: a key of `deepreg_wf.brain.METHODS`, or 'auto'.
    omp_nthreads : int
        Threads on the CPU.
    sloppy : bool
        Fast and rough, for tests.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w
        The raw image

    Outputs
    -------
    t1w_valid
        The raw image in float32, finite, with three axes
    t1w_preproc
        Bias-corrected image, whole
    t1w_brain
        Bias-corrected brain, zero outside of the mask
    t1w_mask
        Brain mask
    skull_strip_method
        What gave the mask: a method, 'already-extracted' or 'none'
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.brain import METHODS, choose_method

    citation = METHODS[choose_method(skull_strip_method)].citation
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _STRIPPING[skull_strip].format(citation=citation) + _BIAS
    inputnode = pe.Node(niu.IdentityInterface(fields=['t1w']), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(fields=[*_OUTPUTS]), name='outputnode')
    validate = pe.Node(ValidateT1w(), name='validate', mem_gb=0.5)
    strip = SkullStrip(
        mode=skull_strip, method=skull_strip_method, num_threads=omp_nthreads, device=device
    )
    skullstrip = pe.Node(strip, name='skullstrip', n_procs=omp_nthreads, mem_gb=2.0)
    bias = pe.Node(BiasCorrect(sloppy=sloppy), name='bias', mem_gb=1.5)
    workflow.connect(
        [
            (inputnode, validate, [('t1w', 'in_file')]),
            (inputnode, skullstrip, [('t1w', 'source_file')]),
            (validate, skullstrip, [('out_file', 'in_file')]),
            (validate, bias, [('out_file', 'in_file')]),
            (skullstrip, bias, [('out_mask', 'in_mask')]),
            (validate, outputnode, [('out_file', 't1w_valid')]),
            (bias, outputnode, [('out_file', 't1w_preproc'), ('out_brain', 't1w_brain')]),
            (
                skullstrip,
                outputnode,
                [('out_mask', 't1w_mask'), ('method', 'skull_strip_method')],
            ),
        ]
    )
    return workflow
