"""The figures and tables of the report on one T1-weighted image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.interfaces.base import BaseInterface
from nipype.pipeline import engine as pe

from deepreg_wf.interfaces.bids import DerivativesDataSink
from deepreg_wf.interfaces.reportlets import (
    AlignmentReportlet,
    BrainMaskReportlet,
    ConvergenceReportlet,
    LogJacobianReportlet,
    MomentumReportlet,
    QualityReportlet,
    SummaryReportlet,
    UncertaintyReportlet,
)

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.templates.template import Template

_FIELDS = (
    't1w_valid',
    't1w_mask_found',
    'skull_strip_method',
    't1w_affine',
    't1w_std',
    'mask_std',
    'log_jacobian',
    'momentum',
    'qc',
    'matching_trace',
    'uncertainty',
)

# By label of the `desc` entity: what each reportlet is connected to, its inputs by their source.
_NATIVE = {
    'summary': {'t1w_mask_found': 'in_mask', 'skull_strip_method': 'skull_strip_method'},
    'brainmask': {'t1w_valid': 'in_file', 't1w_mask_found': 'in_mask'},
}
_STANDARD = {
    'affine': {'t1w_affine': 'in_file'},
    'registration': {'t1w_std': 'in_file', 'mask_std': 'in_mask'},
    'logjacobian': {'log_jacobian': 'in_file'},
    'momentum': {'momentum': 'in_file'},
    'uncertainty': {'uncertainty': 'in_file'},
    'qc': {'qc': 'in_qc'},
    'convergence': {'matching_trace': 'in_trace'},
}


def init_reportlets_wf(
    *,
    output_dir: Path,
    t1w_file: Path,
    template: Template,
    native: Sequence[Template] = (),
    lesion: Path | None = None,
    convergence: bool = True,
    uncertainty: bool = False,
    name: str = 'reportlets_wf',
) -> LiterateWorkflow:
    """Build the workflow that draws the report on one T1-weighted image.

    Figures go to ``sub-X/figures``; `deepreg_wf.reports.write_subject_report` makes a page of
    them once the graph has run.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from pathlib import Path
            from deepreg_wf.templates import Template
            from deepreg_wf.workflows.reports import init_reportlets_wf
            wf = init_reportlets_wf(
                output_dir=Path('out'),
                t1w_file=Path('bids/sub-01/anat/sub-01_T1w.nii.gz'),
                template=Template(space='MNI152NLin2009aSym', t1w=Path('template.nii.gz')),
            )

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    t1w_file : Path
        The raw image; its entities name the figures.
    template : Template
        Its images are drawn, its name tells the space.
    native : sequence of Template
        Templates that the summary names; without any, neither it nor the brain mask is drawn.
    lesion : Path, optional
        Mask of a lesion that was taken out of the registration.
    convergence : bool
        Draw the energy of the matching; nothing is matched where momenta are predicted.
    uncertainty : bool
        Draw the uncertainty of the transform.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w_valid, t1w_mask_found
        Image and the brain mask that was found in it, in their own space, even if it was refused
    skull_strip_method
        How the mask came about
    t1w_affine
        Brain in the space of the template after the affine registration only
    t1w_std, mask_std
        Image and brain mask in the space of the template
    log_jacobian, momentum
        Maps in the space of the template
    qc
        Figures of merit of the registration (JSON)
    matching_trace
        Energies of the matching (JSON); not read without `convergence`
    uncertainty
        Map in the space of the template; not read without `uncertainty`

    Returns
    -------
    LiterateWorkflow
        It writes its figures and has no outputs.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=list(_FIELDS)), name='inputnode')
    space = {'space': template.space}
    if template.cohort is not None:
        space['cohort'] = template.cohort
    reportlets = _reportlets(t1w_file, template, native)
    if lesion is not None:
        reportlets['summary'].inputs.lesion_mask = str(lesion)
    wanted = {'convergence': convergence, 'uncertainty': uncertainty}
    wanted |= dict.fromkeys(_NATIVE, bool(native))
    for desc in (desc for desc, is_wanted in wanted.items() if not is_wanted):
        del reportlets[desc]
    for desc, reportlet in reportlets.items():
        edges = (_NATIVE | _STANDARD)[desc]
        draw = pe.Node(reportlet, name=f'draw_{desc}', mem_gb=0.5)
        sink = DerivativesDataSink(
            base_directory=str(output_dir),
            source_file=str(t1w_file),
            datatype='figures',
            desc=desc,
            suffix='T1w',
            **(space if desc in _STANDARD else {}),
        )
        save = pe.Node(sink, name=f'save_{desc}', run_without_submitting=True)
        workflow.connect(
            [(inputnode, draw, list(edges.items())), (draw, save, [('out_report', 'in_file')])]
        )
    return workflow


def _reportlets(
    t1w_file: Path, template: Template, native: Sequence[Template]
) -> dict[str, BaseInterface]:
    files = {'t1w': template.t1w, 'mask': template.mask, 'gm': template.gm, 'wm': template.wm}
    images = {f'template_{kind}': str(path) for kind, path in files.items() if path is not None}
    summary = SummaryReportlet(
        t1w_file=str(t1w_file),
        templates={known.name: known.uri for known in native},
    )
    return {
        'summary': summary,
        'brainmask': BrainMaskReportlet(),
        'affine': AlignmentReportlet(**images),
        'registration': AlignmentReportlet(**images),
        'logjacobian': LogJacobianReportlet(**images),
        'momentum': MomentumReportlet(**images),
        'uncertainty': UncertaintyReportlet(**images),
        'qc': QualityReportlet(),
        'convergence': ConvergenceReportlet(),
    }
