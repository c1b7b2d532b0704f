"""Figures and tables of the report: shells over `deepreg_wf.reports`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)


class _ReportletOutputSpec(TraitedSpec):
    out_report = File(exists=True, desc='the figure (SVG) or the fragment of the page (HTML)')


class _Reportlet(SimpleInterface):
    """Write what `_draw` gives into the working directory of the node."""

    output_spec = _ReportletOutputSpec
    _name: ClassVar[str] = 'report.svg'

    def _run_interface(self, runtime: Any) -> Any:
        path = Path(runtime.cwd) / self._name
        path.write_text(self._draw(), encoding='utf-8')
        self._results['out_report'] = str(path)
        return runtime

    def _draw(self) -> str:
        raise NotImplementedError


class _TemplateInputSpec(BaseInterfaceInputSpec):
    template_t1w = File(exists=True, mandatory=True, desc='template, T1-weighted')
    template_mask = File(exists=True, desc='its brain mask; without it, the image is of the brain')
    template_gm = File(exists=True, desc='its map of grey matter, in [0, 1]')
    template_wm = File(exists=True, desc='its map of white matter, in [0, 1]')


class _TemplateReportlet(_Reportlet):
    def _reference(self) -> Any:
        from deepreg_wf.reports import Reference

        maps = {
            name: getattr(self.inputs, f'template_{name}') for name in ('t1w', 'mask', 'gm', 'wm')
        }
        return Reference.load(**{name: path for name, path in maps.items() if isdefined(path)})


class _BrainMaskReportletInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='T1-weighted image')
    in_mask = File(exists=True, mandatory=True, desc='its brain mask')


class BrainMaskReportlet(_Reportlet):
    """Draw the outline of the brain mask on the image.

    Examples
    --------
    >>> draw = BrainMaskReportlet(in_file='T1w.nii.gz', in_mask='brain_mask.nii.gz')
    >>> Path(draw.run().outputs.out_report).name
    'report.svg'
    """

    input_spec = _BrainMaskReportletInputSpec

    def _draw(self) -> str:
        from deepreg_wf.reports import Volume, brain_mask_figure

        image = Volume.load(self.inputs.in_file)
        return brain_mask_figure(image, Volume.load(self.inputs.in_mask))


class _AlignmentReportletInputSpec(_TemplateInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image in the space of the template')
    in_mask = File(exists=True, desc='its brain mask in that space; without it, zeros are outside')


class AlignmentReportlet(_TemplateReportlet):
    """Draw the template and the aligned subject in turn.

    Examples
    --------
    >>> draw = AlignmentReportlet(in_file='aligned.nii.gz', template_t1w='template_brain.nii.gz')
    >>> Path(draw.run().outputs.out_report).name
    'report.svg'
    """

    input_spec = _AlignmentReportletInputSpec

    def _draw(self) -> str:
        from deepreg_wf.reports import Volume, alignment_figure

        mask = Volume.load(self.inputs.in_mask) if isdefined(self.inputs.in_mask) else None
        return alignment_figure(self._reference(), Volume.load(self.inputs.in_file), mask)


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

    def _draw(self) -> str:
        from deepreg_wf.reports import Volume, log_jacobian_figure

        return log_jacobian_figure(self._reference(), Volume.load(self.inputs.in_file))


class MomentumReportlet(_TemplateReportlet):
    """Draw the length of the initial momentum on the template.

    Examples
    --------
    >>> draw = MomentumReportlet(template_t1w='template_brain.nii.gz', in_file='momentum.nii.gz')
    >>> Path(draw.run().outputs.out_report).name
    'report.svg'
    """

    input_spec = _MapReportletInputSpec

    def _draw(self) -> str:
        from deepreg_wf.reports import Volume, magnitude_figure

        return magnitude_figure(
            self._reference(),
            Volume.load(self.inputs.in_file),
            symbol='|m₀|',
            meaning='length of the initial momentum',
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

    def _draw(self) -> str:
        from deepreg_wf.reports import Volume, magnitude_figure

        return magnitude_figure(
            self._reference(),
            Volume.load(self.inputs.in_file),
            symbol='σ',
            meaning='standard deviation of the transform',
            unit='mm',
        )


class _ConvergenceReportletInputSpec(BaseInterfaceInputSpec):
    in_trace = File(exists=True, mandatory=True, desc='energies of the matching (JSON)')


class ConvergenceReportlet(_Reportlet):
    """Draw the energy against the iterations of the matching.

    Examples
    --------
    >>> draw = ConvergenceReportlet(in_trace='matching.json')
    >>> Path(draw.run().outputs.out_report).name
    'report.svg'
    """

    input_spec = _ConvergenceReportletInputSpec

    def _draw(self) -> str:
        from deepreg_wf.reports import convergence_figure

        return convergence_figure(_read_json(self.inputs.in_trace))


class _QualityReportletInputSpec(BaseInterfaceInputSpec):
    in_qc = File(exists=True, mandatory=True, desc='figures of merit (JSON)')


class QualityReportlet(_Reportlet):
    """Hold the figures of merit against their limits, in a table with traffic lights.

    Examples
    --------
    >>> draw = QualityReportlet(in_qc='qc.json')
    >>> Path(draw.run().outputs.out_report).name
    'report.html'
    """

    input_spec = _QualityReportletInputSpec
    _name = 'report.html'

    def _draw(self) -> str:
        from deepreg_wf.reports import quality_table

        return quality_table(_read_json(self.inputs.in_qc))


class _SummaryReportletInputSpec(BaseInterfaceInputSpec):
    t1w_file = File(exists=True, mandatory=True, desc='the raw image')
    in_mask = File(exists=True, mandatory=True, desc='its brain mask')
    skull_strip_method = Str(mandatory=True, desc='how the mask came about')
    templates = traits.Dict(
        Str, Str, mandatory=True, desc='where each template comes from, by its name'
    )
    lesion_mask = File(exists=True, desc='mask of a lesion, if there is one')


class SummaryReportlet(_Reportlet):
    """Say what was registered to what.

    Examples
    --------
    >>> show = SummaryReportlet(t1w_file='T1w.nii.gz', in_mask='brain_mask.nii.gz')
    >>> show.inputs.skull_strip_method = 'deepbet'
    >>> show.inputs.templates = {'MNI152NLin2009aSym': 'https://www.templateflow.org'}
    >>> Path(show.run().outputs.out_report).name
    'report.html'
    """

    input_spec = _SummaryReportletInputSpec
    _name = 'report.html'

    def _draw(self) -> str:
        from deepreg_wf.reports import summary

        lesion = self.inputs.lesion_mask
        return summary(
            Path(self.inputs.t1w_file),
            Path(self.inputs.in_mask),
            templates=self.inputs.templates,
            skull_strip_method=self.inputs.skull_strip_method,
            lesion_file=Path(lesion) if isdefined(lesion) else None,
        )


def _read_json(path: str) -> Any:
    import json

    return json.loads(Path(path).read_text(encoding='utf-8'))
