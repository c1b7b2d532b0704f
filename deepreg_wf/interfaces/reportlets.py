"""Interfaces that draw the figures and tables of the report, by `deepreg_wf.reports`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)

if TYPE_CHECKING:
    from deepreg_wf.reports import Reference


class _ReportletOutputSpec(TraitedSpec):
    out_report = File(exists=True, desc='figure (SVG) or table (HTML)')


class _Reportlet(SimpleInterface):
    """Write the result of `_render` into the working directory of the node."""

    output_spec = _ReportletOutputSpec
    _file_name: ClassVar[str] = 'report.svg'

    def _run_interface(self, runtime: Any) -> Any:
        path = Path(runtime.cwd) / self._file_name
        path.write_text(self._render(), encoding='utf-8')
        self._results['out_report'] = str(path)
        return runtime

    def _render(self) -> str:
        raise NotImplementedError


class _TemplateInputSpec(BaseInterfaceInputSpec):
    template_t1w = File(exists=True, mandatory=True, desc='T1-weighted template')
    template_mask = File(
        exists=True, desc='brain mask of the template; by default, voxels above zero'
    )
    template_gm = File(exists=True, desc='grey matter probability map of the template')
    template_wm = File(exists=True, desc='white matter probability map of the template')


class _TemplateReportlet(_Reportlet):
    """Reportlet that shows the template."""

    def _reference(self) -> Reference:
        from deepreg_wf.reports import Reference

        maps = {
            name: getattr(self.inputs, f'template_{name}') for name in ('t1w', 'mask', 'gm', 'wm')
        }
        return Reference.load(**{name: path for name, path in maps.items() if isdefined(path)})


class _BrainMaskReportletInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='T1-weighted image')
    in_mask = File(exists=True, mandatory=True, desc='brain mask of the image')


class BrainMaskReportlet(_Reportlet):
    """Draw the contour of the brain mask on the image.

    Examples
    --------
    >>> draw = BrainMaskReportlet(in_file='T1w.nii.gz', in_mask='brain_mask.nii.gz')
    >>> Path(draw.run().outputs.out_report).name
    'report.svg'
    """

    input_spec = _BrainMaskReportletInputSpec

    def _render(self) -> str:
        from deepreg_wf.reports import ScalarImage, brain_mask_figure

        image = ScalarImage.load(self.inputs.in_file)
        return brain_mask_figure(image, ScalarImage.load(self.inputs.in_mask))


class _AlignmentReportletInputSpec(_TemplateInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image in the space of the template')
    in_mask = File(
        exists=True, desc='brain mask of the image in that space; by default, voxels above zero'
    )


class AlignmentReportlet(_TemplateReportlet):
    """Draw the template and the aligned subject alternately.

    Examples
    --------
    >>> draw = AlignmentReportlet(in_file='aligned.nii.gz', template_t1w='template_brain.nii.gz')
    >>> Path(draw.run().outputs.out_report).name
    'report.svg'
    """

    input_spec = _AlignmentReportletInputSpec

    def _render(self) -> str:
        from deepreg_wf.reports import ScalarImage, alignment_figure

        mask = ScalarImage.load(self.inputs.in_mask) if isdefined(self.inputs.in_mask) else None
        return alignment_figure(self._reference(), ScalarImage.load(self.inputs.in_file), mask)


class _MapReportletInputSpec(_TemplateInputSpec):
    in_file = File(exists=True, mandatory=True, desc='map in the space of the template')


class LogJacobianReportlet(_TemplateReportlet):
    """Draw the log-Jacobian determinant on the template.

    Examples
    --------
    >>> draw = LogJacobianReportlet(template_t1w='template_brain.nii.gz')
    >>> draw.inputs.in_file = 'log_jacobian.nii.gz'
    >>> Path(draw.run().outputs.out_report).name
    'report.svg'
    """

    input_spec = _MapReportletInputSpec

    def _render(self) -> str:
        from deepreg_wf.reports import ScalarImage, log_jacobian_figure

        return log_jacobian_figure(self._reference(), ScalarImage.load(self.inputs.in_file))


class MomentumReportlet(_TemplateReportlet):
    """Draw the length of the initial momentum on the template.

    Examples
    --------
    >>> draw = MomentumReportlet(template_t1w='template_brain.nii.gz', in_file='momentum.nii.gz')
    >>> Path(draw.run().outputs.out_report).name
    'report.svg'
    """

    input_spec = _MapReportletInputSpec

    def _render(self) -> str:
        from deepreg_wf.reports import ScalarImage, magnitude_figure

        return magnitude_figure(
            self._reference(),
            ScalarImage.load(self.inputs.in_file),
            symbol='|m₀|',
            description='length of the initial momentum',
            unit='mm',
        )


class UncertaintyReportlet(_TemplateReportlet):
    """Draw the uncertainty of the transform on the template.

    Examples
    --------
    >>> draw = UncertaintyReportlet(template_t1w='template_brain.nii.gz')
    >>> draw.inputs.in_file = 'uncertainty.nii.gz'
    >>> Path(draw.run().outputs.out_report).name
    'report.svg'
    """

    input_spec = _MapReportletInputSpec

    def _render(self) -> str:
        from deepreg_wf.reports import ScalarImage, magnitude_figure

        return magnitude_figure(
            self._reference(),
            ScalarImage.load(self.inputs.in_file),
            symbol='σ',
            description='standard deviation of the transform',
            unit='mm',
        )


class _ConvergenceReportletInputSpec(BaseInterfaceInputSpec):
    in_trace = File(exists=True, mandatory=True, desc='energies of each resolution (JSON)')


class ConvergenceReportlet(_Reportlet):
    """Draw the energy over the iterations of the matching.

    Examples
    --------
    >>> draw = ConvergenceReportlet(in_trace='matching.json')
    >>> Path(draw.run().outputs.out_report).name
    'report.svg'
    """

    input_spec = _ConvergenceReportletInputSpec

    def _render(self) -> str:
        from deepreg_wf.reports import convergence_figure

        return convergence_figure(json.loads(Path(self.inputs.in_trace).read_bytes()))


class _QualityReportletInputSpec(BaseInterfaceInputSpec):
    in_qc = File(exists=True, mandatory=True, desc='quality measures of the registration (JSON)')


class QualityReportlet(_Reportlet):
    """Make a table of the quality measures with their grades and limits.

    Examples
    --------
    >>> draw = QualityReportlet(in_qc='qc.json')
    >>> Path(draw.run().outputs.out_report).name
    'report.html'
    """

    input_spec = _QualityReportletInputSpec
    _file_name = 'report.html'

    def _render(self) -> str:
        from deepreg_wf.reports import quality_table

        return quality_table(json.loads(Path(self.inputs.in_qc).read_bytes()))


class _SummaryReportletInputSpec(BaseInterfaceInputSpec):
    t1w_file = File(exists=True, mandatory=True, desc='raw T1-weighted image')
    in_mask = File(exists=True, mandatory=True, desc='brain mask of the image')
    skull_strip_method = Str(mandatory=True, desc='method that found the brain mask')
    templates = traits.Dict(Str, Str, mandatory=True, desc='source of each template by its name')
    lesion_mask = File(exists=True, desc='mask of a lesion')


class SummaryReportlet(_Reportlet):
    """Make a list of the image, its brain mask and the templates.

    Examples
    --------
    >>> show = SummaryReportlet(t1w_file='T1w.nii.gz', in_mask='brain_mask.nii.gz')
    >>> show.inputs.skull_strip_method = 'deepbet'
    >>> show.inputs.templates = {'MNI152NLin2009aSym': 'https://www.templateflow.org'}
    >>> Path(show.run().outputs.out_report).name
    'report.html'
    """

    input_spec = _SummaryReportletInputSpec
    _file_name = 'report.html'

    def _render(self) -> str:
        from deepreg_wf.reports import summary_table

        lesion = self.inputs.lesion_mask
        return summary_table(
            Path(self.inputs.t1w_file),
            Path(self.inputs.in_mask),
            templates=self.inputs.templates,
            skull_strip_method=self.inputs.skull_strip_method,
            lesion_file=Path(lesion) if isdefined(lesion) else None,
        )
