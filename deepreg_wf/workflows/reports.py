"""Workflow that draws the figures and tables of the report on one T1-weighted image."""

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
from deepreg_wf.settings import Registration

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.templates.template import Template

_INPUTS = (
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

# Inputs of each reportlet by the field of the input node that they are connected to. Reportlets
# have the label of their `desc` entity.
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
    registration: Registration = Registration(),
    name: str = 'reportlets_wf',
) -> LiterateWorkflow:
    """Build a workflow that draws the report on one T1-weighted image.

    Figures are saved in ``sub-X/figures``. `deepreg_wf.reports.write_subject_report` makes a page
    of them after the run.

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
        Raw image, whose entities are in the names of the figures.
    template : Template
        Template on which figures are drawn; figures are named after its space.
    native : sequence of Template
        All templates of the image, which the summary lists. If empty, the summary and the brain
        mask are not drawn.
    lesion : Path, optional
        Mask of a lesion that was excluded from the registration.
    registration : Registration
        The energy of the matching is drawn only if there is a matching, the uncertainty of the
        transform only if it is estimated.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w_valid, t1w_mask_found
        Image and brain mask in native space. The mask may be one that failed its checks.
    skull_strip_method
        Method that found the brain mask
    t1w_affine
        Brain in template space after the affine registration only
    t1w_std, mask_std
        Image and brain mask in template space
    log_jacobian, momentum
        Maps in template space
    qc
        Quality measures of the registration (JSON)
    matching_trace
        Energies of the matching (JSON); only if there is a matching
    uncertainty
        Map in template space; only with `registration.uncertainty`

    Returns
    -------
    LiterateWorkflow
        Workflow without outputs, which saves its figures.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=list(_INPUTS)), name='inputnode')
    reportlets = _reportlets(t1w_file, template, native, lesion)
    wanted = {
        'convergence': registration.uses_matching,
        'uncertainty': registration.uncertainty > 0,
        **dict.fromkeys(_NATIVE, bool(native)),
    }
    for desc, reportlet in reportlets.items():
        if wanted.get(desc, True):
            sink = DerivativesDataSink(
                base_directory=str(output_dir),
                source_file=str(t1w_file),
                datatype='figures',
                desc=desc,
                suffix='T1w',
                **(_space_entities(template) if desc in _STANDARD else {}),
            )
            draw = pe.Node(reportlet, name=f'draw_{desc}', mem_gb=0.5)
            save = pe.Node(sink, name=f'save_{desc}', run_without_submitting=True)
            connections = list((_NATIVE | _STANDARD)[desc].items())
            workflow.connect(
                [(inputnode, draw, connections), (draw, save, [('out_report', 'in_file')])]
            )
    return workflow


def _space_entities(template: Template) -> dict[str, str]:
    entities = {'space': template.space}
    return entities if template.cohort is None else entities | {'cohort': template.cohort}


def _reportlets(
    t1w_file: Path, template: Template, native: Sequence[Template], lesion: Path | None
) -> dict[str, BaseInterface]:
    """Reportlets by the label of their `desc` entity."""
    files = {'t1w': template.t1w, 'mask': template.mask, 'gm': template.gm, 'wm': template.wm}
    images = {f'template_{kind}': str(path) for kind, path in files.items() if path is not None}
    sources = {listed.name: listed.uri for listed in native}
    summary = SummaryReportlet(t1w_file=str(t1w_file), templates=sources)
    if lesion is not None:
        summary.inputs.lesion_mask = str(lesion)
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
