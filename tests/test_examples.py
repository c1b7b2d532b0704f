"""Examples and workflow graphs in docstrings, run on small images."""

from __future__ import annotations

import doctest
import inspect
import pkgutil
import re
import shutil
import textwrap
from importlib import import_module
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

import deepreg_wf
from deepreg_wf.interfaces.momentum import GeodesicShooting, RefineMomentum
from deepreg_wf.interfaces.qc import RegistrationQC
from deepreg_wf.spatial import save_affine

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(deepreg_wf.__path__, 'deepreg_wf.')
    if not name.endswith('__main__')
]
EXAMPLES = [
    pytest.param(test, id=test.name.removeprefix('deepreg_wf.'))
    for name in MODULES
    for test in doctest.DocTestFinder().find(import_module(name))
    if test.examples
]
INTERFACES = import_module('deepreg_wf.interfaces').__all__
WORKFLOWS = [n for n in import_module('deepreg_wf.workflows').__all__ if n.startswith('init_')]


@pytest.fixture(scope='module')
def files(make_brain, tmp_path_factory) -> Path:
    """Files that the examples read: a small brain, a template, and results of each step."""
    folder = tmp_path_factory.mktemp('examples')
    brain, template = make_brain(seed=1), make_brain()
    for name, image in (('T1w', brain), ('aligned', brain), ('brain', brain)):
        image.to_filename(folder / f'{name}.nii.gz')
    for name in ('template', 'template_brain'):
        template.to_filename(folder / f'{name}.nii.gz')
    raw = folder / 'bids' / 'sub-01' / 'anat' / 'sub-01_T1w.nii.gz'
    raw.parent.mkdir(parents=True)
    brain.to_filename(raw)
    for name, image in (('brain_mask', brain), ('template_mask', template)):
        mask = np.asarray(image.dataobj) > 0
        nb.Nifti1Image(mask.astype(np.uint8), image.affine).to_filename(folder / f'{name}.nii.gz')
    lesion = np.zeros(brain.shape, np.uint8)
    lesion[18:22, 12:16, 18:22] = 1
    nb.Nifti1Image(lesion, brain.affine).to_filename(folder / 'lesion.nii.gz')
    save_affine(folder / 'affine.txt', np.eye(4))
    matching = RefineMomentum(
        moving_image=folder / 'template_brain.nii.gz',
        fixed_image=folder / 'aligned.nii.gz',
        iterations=[2],
    )
    matching.run(cwd=str(folder))
    GeodesicShooting(momentum=folder / 'momentum.nii.gz').run(cwd=str(folder))
    measure = RegistrationQC(
        template_image=folder / 'template_brain.nii.gz',
        template_mask=folder / 'template_mask.nii.gz',
        affine=folder / 'affine.txt',
        affine_image=folder / 'aligned.nii.gz',
        affine_mask=folder / 'brain_mask.nii.gz',
        warped_image=folder / 'aligned.nii.gz',
        warped_mask=folder / 'brain_mask.nii.gz',
        warp=folder / 'warp.nii.gz',
        inverse_warp=folder / 'inverse_warp.nii.gz',
        shooting_trace=folder / 'shooting.json',
    )
    measure.run(cwd=str(folder))
    log_jacobian = nb.load(folder / 'log_jacobian.nii.gz')
    nb.Nifti1Image(np.abs(log_jacobian.get_fdata()), log_jacobian.affine).to_filename(
        folder / 'uncertainty.nii.gz'
    )
    return folder


@pytest.mark.parametrize('example', EXAMPLES)
def test_docstring_examples_run(example, files, tmp_path, monkeypatch) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(verbose=False)
    output: list[str] = []
    assert runner.run(example, out=output.append).failed == 0, ''.join(output)


def test_every_interface_has_an_example() -> None:
    with_example = {param.values[0].name.rpartition('.')[2] for param in EXAMPLES}
    assert set(INTERFACES) <= with_example


@pytest.mark.parametrize('name', WORKFLOWS)
def test_workflow_graphs_have_the_documented_fields(name, files, monkeypatch):
    monkeypatch.chdir(files)
    text = inspect.getdoc(getattr(import_module('deepreg_wf.workflows'), name))
    code = re.search(r'\.\. workflow::\n(?:\s+:.*\n)*\n((?:        .*\n|\n)+)', text).group(1)
    names: dict = {}
    exec(compile(textwrap.dedent(code), name, 'exec'), names)
    for node, section in (('inputnode', 'Inputs'), ('outputnode', 'Outputs')):
        documented = fields_of(text, section)
        found = names['wf'].get_node(node)
        if documented or found is not None:
            fields = set(found.inputs.copyable_trait_names())
            assert fields <= documented
            assert documented - fields <= {'uncertainty'}  # where it was asked for


def fields_of(text: str, section: str) -> set[str]:
    """Names that a section of a docstring lists, one or several in a line."""
    match = re.search(rf'\n{section}\n-+\n(.*?)(?=\n\n\S|\n\w+\n-+\n|\Z)', text, re.S)
    if match is None:
        return set()
    lines = match.group(1).replace('\\\n', ' ').splitlines()
    return {
        field.strip()
        for line in lines
        if line and not line.startswith(' ')
        for field in line.split(',')
        if field.strip()
    }
