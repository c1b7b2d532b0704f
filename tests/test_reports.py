"""Reports: geometry of the figures, grades in the table, and pages without external files."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nb
import numpy as np
import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from deepreg_wf.qc.criteria import CRITERIA
from deepreg_wf.reports import (
    Reference,
    ScalarImage,
    alignment_figure,
    brain_mask_figure,
    convergence_figure,
    log_jacobian_figure,
    magnitude_figure,
    quality_table,
    write_subject_report,
)
from deepreg_wf.reports.citations import read_bibliography, render_methods
from deepreg_wf.reports.contours import Contour, contour_lines
from deepreg_wf.reports.mosaic import PIXEL_MM, make_mosaic
from deepreg_wf.reports.scores import scores_figure
from deepreg_wf.templates.template import Template

PACKAGE = Path(__file__).parents[1] / 'deepreg_wf'
SVG = '{http://www.w3.org/2000/svg}'
RUN = '20250101-120000_test'
SPACE = 'Synthetic'

TRACE = {
    'levels': [
        {'spacing': 4.0, 'energy': [90.0, 40.0, 25.0, 20.0]},
        {'spacing': 2.0, 'energy': [24.0]},
    ]
}
SCORES = [('sub-01', [-1.0, 2.0]), ('sub-02', [1.0, 0.0]), ('sub-03', [0.5])]
MEASURES = {
    'jacobian_min': 0.3,
    'jacobian_max': 3.2,
    'nonpositive_jacobian_fraction': 0.0,
    'inverse_error_median_mm': 0.01,
    'inverse_error_p99_mm': 0.1,
    'energy_drift': 0.005,
    'correlation_affine': 0.62,
    'correlation_final': 0.88,
    'mask_dice_affine': 0.94,
    'mask_dice_final': 0.96,
    'affine_determinant': 0.8,
    'mirror_gain': 0.001,
    'displacement_median_mm': 2.5,
    'displacement_max_mm': 11.0,
}


# Figures


@pytest.fixture(scope='module')
def template(make_brain) -> Reference:
    image = make_brain()
    brain = ScalarImage(np.asarray(image.dataobj), image.affine)
    mask = ScalarImage((brain.data > 0).astype(np.float32), image.affine)
    return Reference(brain, mask, (Contour(brain, 750, 'white matter', '#d55e00'),))


@pytest.fixture(scope='module')
def figures(template) -> dict[str, str]:
    smooth = ScalarImage(
        np.sin(np.indices(template.t1w.data.shape).sum(axis=0) / 6), template.t1w.affine
    )
    length = ScalarImage(np.abs(smooth.data), smooth.affine)
    return {
        'mask': brain_mask_figure(template.t1w, template.mask),
        'alignment': alignment_figure(template, template.t1w, template.mask),
        'log-Jacobian': log_jacobian_figure(template, smooth),
        'magnitude': magnitude_figure(
            template, length, symbol='|m|', description='length', unit='mm'
        ),
        'convergence': convergence_figure(TRACE),
        'scores': scores_figure(SCORES, [0.6, 0.4]),
    }


def reorient(volume: ScalarImage, axes: tuple[int, ...], flips: tuple[int, ...]) -> ScalarImage:
    image = nb.Nifti1Image(volume.data, volume.affine)
    turned = image.as_reoriented(np.column_stack([axes, flips]))
    return ScalarImage(np.asarray(turned.dataobj), turned.affine)


def on_grid(function, affine: np.ndarray, shape: tuple[int, int, int]) -> ScalarImage:
    """Sample a function of (x, y, z) in RAS mm."""
    points = np.einsum('ij,j...->i...', affine[:3, :3], np.indices(shape).astype(float))
    return ScalarImage(function(*(points + affine[:3, 3, None, None, None])), affine)


def oblique_grid() -> tuple[np.ndarray, tuple[int, int, int]]:
    turn = nb.eulerangles.euler2mat(0.3, -0.2, 0.25)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.2, 0.9, 1.5])
    shape = (150, 190, 120)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2)
    return affine, shape


def bump(x, y, z):
    return np.exp(-((x / 30) ** 2 + (y / 45) ** 2 + ((z - 8) / 25) ** 2))


def rasters(svg: str) -> list[np.ndarray]:
    images = ElementTree.fromstring(svg).iter(f'{SVG}image')
    data = (image.get('href').partition('base64,')[2] for image in images)
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(item)))).astype(int) for item in data
    ]


def test_mosaic_does_not_depend_on_storage_order(template):
    rows = ((2, 2), (1, 2), (0, 2))
    mosaic = make_mosaic(template.mask, rows)
    expected = mosaic.sample(template.t1w)
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            mask, t1w = (reorient(v, axes, flips) for v in (template.mask, template.t1w))
            found = make_mosaic(mask, rows).sample(t1w)
            np.testing.assert_allclose(found, expected, atol=0.01)


def test_oblique_image_is_resampled_to_the_world_axes():
    """Linear interpolation of a bump 25 mm wide, at 1.5 mm at most, errs by less than 0.002."""
    straight = np.eye(4)
    straight[:3, 3] = -60
    upright = on_grid(bump, straight, (121, 121, 121))
    oblique = on_grid(bump, *oblique_grid())
    mosaic = make_mosaic(ScalarImage((upright.data > 0.3).astype(float), upright.affine))
    np.testing.assert_allclose(mosaic.sample(oblique), mosaic.sample(upright), atol=0.002)


def test_figure_does_not_depend_on_orientation():
    straight = np.eye(4)
    straight[:3, 3] = -60
    t1w = on_grid(bump, straight, (121, 121, 121))
    mask = ScalarImage((t1w.data > 0.3).astype(np.float32), straight)
    (expected,) = rasters(brain_mask_figure(t1w, mask))
    flipped = [reorient(volume, (2, 0, 1), (-1, 1, -1)) for volume in (t1w, mask)]
    (found,) = rasters(brain_mask_figure(*flipped))
    assert np.abs(found - expected).max() <= 2
    (found,) = rasters(brain_mask_figure(on_grid(bump, *oblique_grid()), mask))
    assert np.abs(found - expected).max() <= 4


def test_anatomical_left_is_on_the_left_and_superior_is_up():
    def corner(x, y, z):
        return ((x > 0) & (y > 0) & (z > 0)).astype(float)

    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [60, -60, -60]
    volume = on_grid(corner, affine, (60, 60, 60))
    mosaic = make_mosaic(
        on_grid(lambda x, y, z: (x**2 + y**2 + z**2 < 50**2) * 1.0, affine, (60, 60, 60))
    )
    canvas = mosaic.sample(volume)
    for panel in mosaic.panels:
        shown = panel.crop(canvas)
        half = (shown.shape[0] // 2, shown.shape[1] // 2)
        assert (shown[: half[0] - 3, half[1] + 3 :] > 0.5).any() == (panel.position > 0)
        assert not (shown[half[0] + 3 :] > 0.5).any()
        assert not (shown[:, : half[1] - 3] > 0.5).any()
    labels = [
        text.text
        for text in ElementTree.fromstring(brain_mask_figure(volume, volume)).iter(f'{SVG}text')
    ]
    assert [label for label in labels if label in 'LRPA'] == list('LRLRPA')


def test_ball_with_anisotropic_voxels_is_round():
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[:3, 3] = [-50, -50, -48]
    ball = on_grid(
        lambda x, y, z: np.clip(36 - np.sqrt(x**2 + y**2 + z**2), 0, 1), affine, (101, 101, 25)
    )
    mosaic = make_mosaic(ball)
    canvas = mosaic.sample(ball)
    for panel in mosaic.panels:
        inside = panel.crop(canvas) > 0.5
        width, height = inside.any(axis=0).sum(), inside.any(axis=1).sum()
        assert width == pytest.approx(height, abs=4 / PIXEL_MM)


def test_contours_lie_on_the_surface():
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -50
    ball = on_grid(lambda x, y, z: (x**2 + y**2 + z**2 < 40**2) * 1.0, affine, (101, 101, 101))
    mosaic = make_mosaic(ball)
    for line in contour_lines(mosaic, ball, 0.5):
        panel = next(
            p
            for p in mosaic.panels
            if 0 <= line[0, 0] - p.left < p.width and 0 <= line[0, 1] - p.top < p.height
        )
        centre = np.array([panel.left + panel.width / 2, panel.top + panel.height / 2])
        radius = np.hypot(*(line - centre).T) * PIXEL_MM
        np.testing.assert_allclose(radius, np.sqrt(40**2 - panel.position**2), atol=1.0)


@pytest.mark.parametrize(
    'name', ['mask', 'alignment', 'log-Jacobian', 'magnitude', 'convergence', 'scores']
)
def test_figures_are_self_contained(figures, name):
    svg = figures[name]
    root = ElementTree.fromstring(svg)
    assert root.find(f'{SVG}title').text
    assert 'viewBox' in root.attrib
    assert not {'width', 'height'} & set(root.attrib)
    links = [value for node in root.iter() for key, value in node.attrib.items() if 'href' in key]
    assert all(link.startswith('data:image/') for link in links)
    assert not re.search(r'https?://', svg.replace('xmlns="http://www.w3.org/2000/svg"', ''))
    assert not list(root.iter(f'{SVG}script'))
    assert len(svg) < 1_000_000


def test_brightness_does_not_depend_on_intensity_scale(template):
    brighter = ScalarImage(template.t1w.data * 17, template.t1w.affine)
    pictures = [
        rasters(brain_mask_figure(t1w, template.mask))[0] for t1w in (template.t1w, brighter)
    ]
    assert np.abs(pictures[0] - pictures[1]).max() <= 2


def test_aligned_images_give_equal_pictures(template):
    subject, shown = rasters(alignment_figure(template, template.t1w, template.mask))
    np.testing.assert_array_equal(subject, shown)
    away = template.t1w.affine.copy()
    away[0, 3] += 8
    subject, shown = rasters(alignment_figure(template, ScalarImage(template.t1w.data, away)))
    assert np.abs(subject - shown).mean() > 5


def test_alignment_figure_shows_only_the_brain(template):
    head = ScalarImage(template.t1w.data + 500, template.t1w.affine)
    bare, _ = rasters(alignment_figure(template, head, template.mask))
    mosaic = make_mosaic(template.mask)
    assert bare[mosaic.sample(template.mask) < 0.01].max() <= 12  # JPEG artefacts


def test_growth_shrinkage_and_folds_have_different_colours(template):
    shape, affine = template.t1w.data.shape, template.t1w.affine
    values = {'grown': np.log(2), 'shrunk': -np.log(2), 'same': 0.0, 'folded': np.nan}
    colours = {}
    for name, value in values.items():
        figure = log_jacobian_figure(template, ScalarImage(np.full(shape, value), affine))
        picture = max(rasters(figure), key=lambda raster: raster.size)
        colours[name] = picture[make_mosaic(template.mask).sample(template.mask) > 0.9].mean(
            axis=0
        )
    red, green, blue = colours['grown']
    assert red > green + 50
    assert red > blue + 50
    assert colours['shrunk'][2] > colours['shrunk'][0] + 50
    assert np.ptp(colours['same']) < 10
    assert colours['folded'][:2].min() > 200
    assert colours['folded'][2] < 120


def test_colour_bars_show_units_and_limits(figures):
    words = {t.text for t in ElementTree.fromstring(figures['log-Jacobian']).iter(f'{SVG}text')}
    assert {'×0.5', '−0.69', '0', '+0.69', '×2'} <= words
    words = [t.text for t in ElementTree.fromstring(figures['magnitude']).iter(f'{SVG}text')]
    assert any(re.fullmatch(r'[\d.]+ mm', word) for word in words)


def test_convergence_figure_has_one_curve_for_each_resolution(figures):
    root = ElementTree.fromstring(figures['convergence'])
    words = [text.text for text in root.iter(f'{SVG}text')]
    assert {'4 mm, 3 iterations', '2 mm', 'iteration', 'energy', '24'} <= set(words)
    (curves,) = (path for path in root.iter(f'{SVG}path') if path.get('stroke') == '#0072b2')
    # One relative move for each resolution, and no line between them.
    assert curves.get('d').count('M') == len(TRACE['levels'])


def test_scores_figure_has_a_named_dot_for_each_image(figures):
    dots = {
        dot.find(f'{SVG}title').text: (float(dot.get('cx')), float(dot.get('cy')))
        for dot in ElementTree.fromstring(figures['scores']).iter(f'{SVG}circle')
    }
    assert list(dots) == [name for name, _ in SCORES]
    (x1, y1), (x2, y2), (x3, y3) = dots.values()
    assert x1 < x3 < x2
    assert y1 < y2 == y3  # the second axis points upwards, and a missing score is zero


def test_tissues_without_maps_are_separated_by_brightness(make_brain, tmp_path):
    image = make_brain()
    image.to_filename(tmp_path / 't1w.nii.gz')
    white, brain = Reference.load(tmp_path / 't1w.nii.gz').contours
    # Fluid is 250, grey matter 600, white matter 900.
    assert 600 < white.level < 900
    assert 250 < brain.level < 600


# Grades


def test_table_shows_every_grade_limit_and_reason():
    html = quality_table({**MEASURES, 'jacobian_min': 0.05, 'energy_drift': 0.5})
    rows = re.findall(r'<tr>\s*<td>.*?</tr>', html, re.DOTALL)
    assert len(rows) == len(CRITERIA)
    for row, criterion in zip(rows, CRITERIA, strict=True):
        grade = criterion.grade({**MEASURES, 'jacobian_min': 0.05, 'energy_drift': 0.5})
        assert f'class="grade {grade.value}"' in row
        assert criterion.label in row
        assert criterion.format_interval(criterion.good) in row
    assert 'Overall: <span class="grade bad">' in html
    assert 'not measured' in quality_table({})


# Methods text


def test_bibliography_holds_all_citations_of_the_package():
    bibliography = read_bibliography(PACKAGE / 'data' / 'boilerplate.bib')
    sources = ''.join(path.read_text() for path in PACKAGE.rglob('*.py'))
    cited = set(re.findall(r'(?<=[\[ ])@([a-z0-9]+)(?=[;\]])', sources)) - {'key', 'n4', 'ants'}
    assert cited <= set(bibliography)
    html = render_methods(' '.join(f'[@{key}]' for key in bibliography), bibliography)
    assert not re.search(r'[{}\\]|\[@', html)
    assert all(f'id="ref-{key}"' in html for key in bibliography)


def test_html_in_the_methods_text_is_escaped():
    bibliography = read_bibliography(PACKAGE / 'data' / 'boilerplate.bib')
    html = render_methods('A <script>x</script> of [@n4; @beg2005], [@nobody].', bibliography)
    assert '<script>' not in html
    assert '<a href="#ref-n4">Tustison et al., 2010</a>; <a href="#ref-beg2005">' in html
    assert '[@nobody]' in html


# Pages


@pytest.fixture(scope='module')
def inputs(make_brain, tmp_path_factory) -> tuple[Path, Path, Template, dict[str, str]]:
    """Folder of derivatives to come, raw image, template, and what the chain hands over."""
    root = tmp_path_factory.mktemp('inputs')
    image = make_brain()
    data, affine = np.asarray(image.dataobj), image.affine
    vectors = np.random.default_rng(0).random((*data.shape, 1, 3), dtype=np.float32)
    arrays = {
        't1w': data,
        'mask': (data > 0).astype(np.uint8),
        'log_jacobian': np.where(data > 0, 0.2, 0).astype(np.float32),
        'momentum': vectors,
    }
    for name, array in arrays.items():
        nb.Nifti1Image(array, affine).to_filename(root / f'{name}.nii.gz')
    (root / 'qc.json').write_text(json.dumps(MEASURES))
    (root / 'trace.json').write_text(json.dumps(TRACE))
    raw = root / 'sub-01' / 'anat' / 'sub-01_T1w.nii.gz'
    raw.parent.mkdir(parents=True)
    image.to_filename(raw)
    files = {
        't1w_valid': 't1w.nii.gz',
        't1w_mask_found': 'mask.nii.gz',
        't1w_affine': 't1w.nii.gz',
        't1w_std': 't1w.nii.gz',
        'mask_std': 'mask.nii.gz',
        'log_jacobian': 'log_jacobian.nii.gz',
        'momentum': 'momentum.nii.gz',
        'qc': 'qc.json',
        'matching_trace': 'trace.json',
    }
    handed = {name: str(root / file) for name, file in files.items()}
    template = Template(space=SPACE, t1w=root / 't1w.nii.gz', mask=root / 'mask.nii.gz')
    return raw, template, {**handed, 'skull_strip_method': 'already-extracted'}


def draw(output: Path, work: Path, raw: Path, template: Template, handed: dict[str, str]) -> None:
    from deepreg_wf.workflows.reports import init_reportlets_wf

    workflow = init_reportlets_wf(
        output_dir=output, t1w_file=raw, template=template, native=[template]
    )
    workflow.base_dir = str(work)
    for name, value in handed.items():
        setattr(workflow.inputs.inputnode, name, value)
    workflow.run()


@pytest.fixture(scope='module')
def output(inputs, tmp_path_factory) -> Path:
    """Derivatives of a subject as far as the report looks at them, and the report."""
    output = tmp_path_factory.mktemp('output')
    draw(output, tmp_path_factory.mktemp('work'), *inputs)
    log = output / 'sub-01' / 'log' / RUN
    log.mkdir(parents=True)
    (log / 'deepreg_wf.toml').write_text(
        '[run]\nversion = "0.1"\nstarted = "2025-01-01T12:00:00+00:00"\n'
        'command_line = "deepreg_wf /data /out participant"\n\n[registration]\n'
        'momentum = "optimise"\n'
    )
    (output / 'logs').mkdir()
    (output / 'logs' / 'CITATION.md').write_text('Registered with *deepreg_wf* [@nipype].\n')
    anat = output / 'sub-01' / 'anat'
    anat.mkdir()
    (anat / f'sub-01_space-{SPACE}_desc-registration_qc.json').write_text(json.dumps(MEASURES))
    write_subject_report(output, '01', RUN, elapsed=3723.4)
    return output


class Links(HTMLParser):
    """All that a page refers to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.followed: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given['id']} if 'id' in given else set()
        self.loaded += [given[key] for key in ('src', 'data') if key in given]
        if 'href' in given:
            (self.followed if tag == 'a' else self.loaded).append(given['href'])


def check_links(page: Path) -> Links:
    links = Links(page)
    for link in links.loaded:
        assert link.startswith('data:') or (page.parent / link).is_file(), link
    for link in links.followed:
        if link.startswith('#'):
            assert link[1:] in links.anchors, link
        elif not link.startswith('https://doi.org/'):
            assert (page.parent / link).is_file(), link
    return links


def headings(page: Path) -> list[str]:
    return re.findall(r'<h2>(.*?)</h2>', page.read_text(encoding='utf-8'))


def test_figures_have_names_like_those_of_fmriprep(output):
    space = f'sub-01_space-{SPACE}_desc'
    assert {path.name for path in (output / 'sub-01' / 'figures').iterdir()} == {
        'sub-01_desc-summary_T1w.html',
        'sub-01_desc-brainmask_T1w.svg',
        f'{space}-affine_T1w.svg',
        f'{space}-registration_T1w.svg',
        f'{space}-logjacobian_T1w.svg',
        f'{space}-momentum_T1w.svg',
        f'{space}-qc_T1w.html',
        f'{space}-convergence_T1w.svg',
    }


def test_page_has_all_sections_and_loads_only_its_figures(output):
    page = output / 'sub-01.html'
    assert headings(page) == [
        'Summary',
        'Brain mask',
        'Alignment',
        'Deformation',
        'Quality',
        'Matching',
        'Methods',
        'Errors',
        'Provenance',
    ]
    links = check_links(page)
    assert sum(link.endswith('.svg') for link in links.loaded) == 6
    text = page.read_text(encoding='utf-8')
    assert '<script' not in text
    assert '@import' not in text
    for words in (
        '40 × 48 × 40 voxels',
        '1 h 2 min 3 s',
        'participant',
        'Gorgolewski et al., 2011',
    ):
        assert words in text


def test_second_page_is_identical(output):
    files = [output / 'sub-01.html', *sorted((output / 'sub-01' / 'figures').iterdir())]
    before = [path.read_bytes() for path in files]
    write_subject_report(output, '01', RUN, elapsed=3723.4)
    assert [path.read_bytes() for path in files] == before


@pytest.mark.parametrize('linked', [False, True])
def test_page_does_not_depend_on_the_path_of_the_folder(output, tmp_path, linked):
    """Neither a link nor folders that look like entities hide the figures or copy them."""
    folder = tmp_path / 'sub-99' / 'run-2' / "it's {here}"
    folder.parent.mkdir(parents=True)
    if linked:
        folder.symlink_to(output)
    else:
        shutil.copytree(output, folder)
    page = write_subject_report(folder, '01', RUN)
    assert page == folder / 'sub-01.html'
    assert sum(link.endswith('.svg') for link in check_links(page).loaded) == 6
    assert not (folder / 'figures').exists()


def test_page_shows_all_sessions(inputs, output, tmp_path):
    source = output / 'sub-01' / 'figures'
    target = tmp_path / 'sub-02' / 'figures'
    target.mkdir(parents=True)
    for path, session in itertools.product(source.iterdir(), ('pre', 'post')):
        name = path.name.replace('sub-01', f'sub-02_ses-{session}')
        (target / name).write_bytes(path.read_bytes())
    for session in ('pre', 'post'):
        folder = tmp_path / 'sub-02' / f'ses-{session}' / 'anat'
        folder.mkdir(parents=True)
        name = f'sub-02_ses-{session}_space-{SPACE}_desc-registration_qc.json'
        (folder / name).write_text(json.dumps(MEASURES))
    page = write_subject_report(tmp_path, '02', RUN)
    # Each verdict leads to the table of its own session.
    assert f'#quality-session-pre-space-{SPACE}' in check_links(page).followed
    loaded = [link for link in check_links(page).loaded if link.endswith('.svg')]
    assert len(loaded) == len(set(loaded)) == 12
    titles = re.findall(r'<h3[^>]*>(.*?)</h3>', page.read_text(encoding='utf-8'))
    assert sum('>pre<' in title for title in titles) == 6


CRASH = """\
Node: deepreg_wf.single_subject_03_wf.anat_preproc_wf.validate
Working directory: /work/validate

Node inputs:

in_file = a
with = two lines

Traceback (most recent call last):
  File "/lib/node.py", line 1, in run
    result = self._run()
nipype.pipeline.engine.nodes.NodeExecutionError: Exception raised while executing Node validate.

Traceback:
\tTraceback (most recent call last):
\t  File "/lib/core.py", line 401, in run
\t    runtime = self._run_interface(runtime)
\tdeepreg_wf.errors.InputError: sub-03_T1w.nii.gz: it <b>ends</b> early; copy it again.
"""


def test_page_of_a_failed_participant_shows_the_reason(tmp_path):
    log = tmp_path / 'sub-03' / 'log' / RUN
    log.mkdir(parents=True)
    (log / 'crash-20250101-120001-me-validate-1.txt').write_text(CRASH)
    page = write_subject_report(tmp_path, '03', RUN)
    text = page.read_text(encoding='utf-8')
    assert headings(page)[0] == 'Errors'
    assert '1 step failed' in text
    assert 'sub-03_T1w.nii.gz: it &lt;b&gt;ends&lt;/b&gt; early; copy it again.' in text
    check_links(page)


def test_failed_step_has_the_same_name_as_in_the_run(tmp_path):
    folder = tmp_path / 'sub-03' / 'log' / RUN
    folder.mkdir(parents=True)
    (folder / 'crash-1.txt').write_text('Node: a.b.validate\nTraceback (most recent call last):\n')
    (tmp_path / 'failed.tsv').write_text(
        'participant_id\tstep\tcrash_file\nsub-03\treading the T1w image\t/x/crash-1.txt\n'
    )
    page = write_subject_report(tmp_path, '03', RUN).read_text(encoding='utf-8')
    assert '<strong>reading the T1w image</strong>' in page


def test_page_without_any_figure(tmp_path):
    page = write_subject_report(tmp_path, '04', RUN)
    assert 'no registration was completed' in page.read_text(encoding='utf-8')


@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine')
def test_browser_opens_the_page_and_the_animation_runs(output):
    with Browser() as browser:
        browser.open(output / 'sub-01.html')
        assert browser.errors == []
        assert all(url.startswith(('file:', 'data:')) for url in browser.requests)
        assert sum(url.endswith('.svg') for url in browser.requests) == 6
        assert browser.evaluate('document.documentElement.scrollWidth <= innerWidth')
        first = browser.screenshot('object')
        deadline = time.monotonic() + 10
        while browser.screenshot('object') == first:
            assert time.monotonic() < deadline, 'the picture stands still'
