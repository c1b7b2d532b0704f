"""Workflow graphs for a table of settings; no image is read."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from nipype.interfaces.base import Undefined, isdefined
from nipype.pipeline.engine.utils import generate_expanded_graph
from niworkflows.utils.testing import generate_bids_skeleton

import deepreg_wf
from deepreg_wf import lddmm
from deepreg_wf.checkpoints.locate import SHIPPED
from deepreg_wf.engine.progress import StepLabels
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Anatomical, Compute, Registration
from deepreg_wf.templates.template import Template, merge_resolutions
from deepreg_wf.workflows import init_deepreg_wf, single_subject_name

SUBJECT_TO_TEMPLATE = 'subject-to-template'

SKELETON = {
    '01': {'anat': [{'suffix': 'T1w'}, {'suffix': 'T2w'}]},
    '02': [
        {'session': 'pre', 'anat': [{'run': 1, 'suffix': 'T1w'}, {'run': 2, 'suffix': 'T1w'}]},
        {'session': 'post', 'anat': [{'acq': 'mprage', 'suffix': 'T1w'}]},
    ],
}
NAMES = [
    'single_subject_01_wf',
    'single_subject_02_ses_post_acq_mprage_wf',
    'single_subject_02_ses_pre_run_1_wf',
    'single_subject_02_ses_pre_run_2_wf',
]


@pytest.fixture
def bids_dir(tmp_path):
    root = tmp_path / 'raw'
    generate_bids_skeleton(root, SKELETON)
    return root


@pytest.fixture
def build(tmp_path, bids_dir):
    """Build the graph of the skeleton with some options."""
    template = tmp_path / 'tpl.nii.gz'
    template.touch()

    def factory(spaces=('MNI152NLin2009aSym',), mask=None, **options):
        subjects = {
            label: sorted(bids_dir.glob(f'sub-{label}/**/*_T1w.nii.gz')) for label in SKELETON
        }
        settings = {
            'subjects': subjects,
            'bids_dir': bids_dir,
            'output_dir': tmp_path / 'out',
            'templates': [
                Template(space=name, t1w=template, mask=mask, uri=template.as_uri())
                for name in spaces
            ],
            'run_id': 'run1',
        }
        return init_deepreg_wf(**settings | options)

    return factory


def nodes_of(workflow):
    return {name: workflow.get_node(name) for name in workflow.list_node_names()}


def nodes_of_class(workflow, name):
    return [node for node in nodes_of(workflow).values() if type(node.interface).__name__ == name]


def expand(workflow):
    flat = workflow._create_flat_graph()
    return generate_expanded_graph(flat)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'anatomical': Anatomical(skull_strip='force', skull_strip_method='deepbet')},
        {'anatomical': Anatomical(skull_strip='skip')},
        {'registration': Registration(affine_method='icstn', affine_polish=False)},
        {'registration': Registration(direction='subject-to-template')},
        {
            'registration': Registration(registration_resolution=4.0),
            'compute': Compute(sloppy=True),
        },
        {'registration': Registration(momentum='predict', refine=0, uncertainty=5)},
        {'registration': Registration(refine=0)},
        {'registration': Registration(momentum='optimise')},
        {'compute': Compute(omp_nthreads=8, device='cuda:0')},
        {'compute': Compute(random_seed=7)},
        {'spaces': ['custom', 'MNI152NLin2009cAsym']},
    ],
    ids=str,
)
def test_every_mandatory_input_is_set_or_connected(build, options):
    graph = expand(build(**options))
    for node in graph.nodes:
        fed = {
            port for _, _, data in graph.in_edges(node, data=True) for _, port in data['connect']
        }
        for name, trait in node.inputs.traits(mandatory=True).items():
            assert name in fed or isdefined(getattr(node.inputs, name)), (node.fullname, trait)


def test_the_workflow_of_an_image_is_named_after_its_entities(build, bids_dir):
    workflow = build()
    found = {name.split('.')[0] for name in workflow.list_node_names() if '.' in name}
    assert sorted(found) == NAMES
    assert sorted(map(single_subject_name, bids_dir.glob('sub-*/**/*_T1w.nii.gz'))) == NAMES


def test_the_template_is_prepared_once(build, tmp_path):
    mask = tmp_path / 'mask.nii.gz'
    mask.touch()
    registration = Registration(registration_resolution=4.0)
    nodes = nodes_of_class(build(mask=mask, registration=registration), 'PrepareTemplate')
    assert len(nodes) == 1
    assert nodes[0].inputs.in_mask == str(mask)
    assert nodes[0].inputs.resolution == 4.0


def test_each_template_has_a_registration_and_the_image_is_prepared_once(build):
    workflow = build(spaces=['A', 'B'])
    assert len(nodes_of_class(workflow, 'PrepareTemplate')) == 2
    for interface, number in {'SkullStrip': 1, 'BiasCorrect': 1, 'AffineAlign': 2}.items():
        assert len(nodes_of_class(workflow, interface)) == number * len(NAMES), interface
    entities = ('source_file', 'datatype', 'space', 'desc', 'suffix', 'extension', 'from_', 'to')
    stored = [
        tuple(str(getattr(sink.inputs, name)) for name in entities)
        for sink in nodes_of_class(workflow, 'DerivativesDataSink')
    ]
    assert len(stored) == len(set(stored))


def test_another_resolution_of_a_template_needs_no_registration_of_its_own(build, tmp_path):
    fine, coarse = (tmp_path / f'{name}.nii.gz' for name in ('fine', 'coarse'))
    for path in (fine, coarse):
        path.touch()
    asked = [Template(space='A', resolution=r, t1w=t) for r, t in (('1', fine), ('2', coarse))]
    workflow = build(templates=merge_resolutions([*asked, Template(space='B', t1w=fine)]))
    assert len(nodes_of_class(workflow, 'AffineAlign')) == 2 * len(NAMES)
    references = {
        name.rpartition('.')[2]: node.inputs.reference_image
        for name, node in nodes_of(workflow).items()
        if '.A_wf.apply' in name
    }
    assert references.keys() == {
        f'apply_t1w_{kind}{ending}' for kind in ('preproc', 'mask') for ending in ('', '_res2')
    }
    assert references['apply_t1w_preproc_res2'] == str(coarse)


def test_the_mask_of_a_lesion_is_used_for_its_image_only(build, bids_dir):
    image = min(bids_dir.glob('sub-*/**/*_T1w.nii.gz'))
    lesion = image.with_name(image.name.replace('_T1w', '_label-lesion_roi'))
    lesion.touch()
    graph = expand(build(lesions={image: lesion}))
    masks = {
        node.fullname.split('.')[1]: node.inputs.lesion_mask
        for node in graph.nodes
        if node.name == 'fill' and isdefined(node.inputs.lesion_mask)
    }
    assert masks == {single_subject_name(image): str(lesion)}


def test_step_labels_name_the_template_if_there_are_several(build, bids_dir):
    images = {name: name for name in NAMES}
    steps = StepLabels.from_workflow(build(spaces=['A', 'B']), images).steps.values()
    assert {'affine alignment, A', 'affine alignment, B', 'brain extraction'} <= set(steps)
    assert 'affine alignment' in StepLabels.from_workflow(build(), images).steps.values()


OTHER_METHOD = Anatomical(skull_strip_method='template')


@pytest.mark.parametrize(
    ('option', 'value', 'interface', 'trait', 'expected'),
    [
        ('anatomical', Anatomical(skull_strip='force'), 'SkullStrip', 'mode', 'force'),
        ('anatomical', OTHER_METHOD, 'SkullStrip', 'method', 'template'),
        ('registration', Registration(affine_method='icstn'), 'AffineAlign', 'method', 'icstn'),
        ('registration', Registration(affine_polish=False), 'AffineAlign', 'polish', False),
        ('compute', Compute(device='cuda:1'), 'SkullStrip', 'device', 'cuda:1'),
        ('compute', Compute(device='cuda:1'), 'PredictMomentum', 'device', 'cuda:1'),
        ('compute', Compute(batch_size=5), 'PredictMomentum', 'batch_size', 5),
        ('compute', Compute(batch_size=5), 'CorrectMomentum', 'batch_size', 5),
        ('compute', Compute(device='cuda:1'), 'GeodesicShooting', 'device', 'cuda:1'),
        ('compute', Compute(omp_nthreads=3), 'SkullStrip', 'num_threads', 3),
        ('compute', Compute(omp_nthreads=3), 'CorrectMomentum', 'num_threads', 3),
        ('compute', Compute(sloppy=True), 'AffineAlign', 'sloppy', True),
        ('compute', Compute(sloppy=True), 'BiasCorrect', 'sloppy', True),
    ],
)
def test_options_reach_their_nodes(build, option, value, interface, trait, expected):
    nodes = nodes_of_class(build(**{option: value}), interface)
    assert len(nodes) == len(NAMES)
    expected = value if expected is None else expected
    assert {getattr(node.inputs, trait) for node in nodes} == {expected}


@pytest.mark.parametrize(
    ('registration', 'interface', 'trait', 'expected'),
    [
        (
            Registration(direction=SUBJECT_TO_TEMPLATE),
            'GeodesicShooting',
            'direction',
            SUBJECT_TO_TEMPLATE,
        ),
        (Registration(refine=7), 'RefineMomentum', 'iterations', 7),
        (Registration(refine=7), 'CorrectMomentum', 'n_iterations', 1),
        (Registration(refine=0), 'CorrectMomentum', 'n_iterations', Undefined),
        (Registration(uncertainty=9), 'TransformUncertainty', 'samples', 9),
        (
            Registration(uncertainty=9, direction=SUBJECT_TO_TEMPLATE),
            'TransformUncertainty',
            'direction',
            SUBJECT_TO_TEMPLATE,
        ),
        (Registration(), 'PredictMomentum', 'weights', str(SHIPPED / 'prediction.safetensors')),
        (Registration(), 'CorrectMomentum', 'weights', str(SHIPPED / 'correction.safetensors')),
        (
            Registration(uncertainty=2),
            'TransformUncertainty',
            'weights',
            str(SHIPPED / 'probabilistic.safetensors'),
        ),
    ],
)
def test_registration_settings_reach_their_nodes(build, registration, interface, trait, expected):
    nodes = nodes_of_class(build(registration=registration), interface)
    assert len(nodes) == len(NAMES)
    assert all(getattr(node.inputs, trait) == expected for node in nodes)


@pytest.mark.parametrize(
    ('registration', 'steps'),
    [
        (Registration(momentum='predict', refine=0), ['PredictMomentum']),
        (Registration(refine=0), ['PredictMomentum', 'CorrectMomentum']),
        (
            Registration(),
            ['PredictMomentum', 'CorrectMomentum', 'RefineMomentum'],
        ),
        (Registration(momentum='predict', refine=5), ['PredictMomentum', 'RefineMomentum']),
        (Registration(momentum='optimise'), ['RefineMomentum']),
    ],
)
def test_momentum_nodes_are_chained_in_order(build, registration, steps):
    workflow = build(registration=registration)
    graph = expand(workflow)
    (shoot, *_) = [n for n in graph if type(n.interface).__name__ == 'GeodesicShooting']
    way, node = [], shoot
    while node is not None:
        before = [
            source
            for source, _, data in graph.in_edges(node, data=True)
            if ('momentum', 'momentum') in data['connect']
        ]
        node = before[0] if before else None
        way += [type(node.interface).__name__] if node else []
    assert way[::-1] == steps
    matched = 'RefineMomentum' in steps
    assert len(registration.momenta) == (len(lddmm.default_links((2.0,) * 3)) if matched else 1)
    assert bool(nodes_of_class(workflow, 'ConvergenceReportlet')) == matched


def test_the_seed_is_used_for_the_uncertainty_only(build):
    nodes = nodes_of(
        build(registration=Registration(uncertainty=2), compute=Compute(random_seed=7))
    )
    seeds = {name: getattr(node.inputs, 'seed', Undefined) for name, node in nodes.items()}
    drawn = {name.rpartition('.')[2] for name, seed in seeds.items() if isdefined(seed)}
    assert drawn == {'sample'}
    assert {seed for seed in seeds.values() if isdefined(seed)} == {7}


def test_weights_are_read_from_the_folder_of_the_settings(build, tmp_path):
    for name in ('prediction', 'correction'):
        (tmp_path / f'{name}.safetensors').symlink_to(SHIPPED / f'{name}.safetensors')
    nodes = nodes_of_class(build(registration=Registration(weights=tmp_path)), 'PredictMomentum')
    assert {node.inputs.weights for node in nodes} == {str(tmp_path / 'prediction.safetensors')}


def test_networks_that_do_not_fit_the_grid_are_refused_before_the_run(build):
    with pytest.raises(InputError, match='a grid of 4 mm'):
        build(registration=Registration(registration_resolution=3.0))


def test_nodes_reserve_the_threads_that_they_use(build):
    for node in nodes_of(build(compute=Compute(omp_nthreads=3))).values():
        threads = getattr(node.inputs, 'num_threads', None)
        if threads is not None and isdefined(threads):
            assert node.n_procs == threads, node.fullname
        assert 0 < node.mem_gb <= 8


def test_a_gpu_node_reserves_one_gpu_slot_and_one_processor(build):
    nodes = nodes_of(build(compute=Compute(omp_nthreads=3, device='cuda:0'))).values()
    on_gpu = {type(node.interface).__name__ for node in nodes if node.is_gpu_node()}
    assert on_gpu == {
        'SkullStrip',
        'PredictMomentum',
        'CorrectMomentum',
        'RefineMomentum',
        'GeodesicShooting',
    }
    assert all(node.n_procs == 1 for node in nodes if node.is_gpu_node())
    assert not any(node.is_gpu_node() for node in nodes_of(build()).values())


def test_settings_that_change_only_the_speed_change_no_hash(build):
    first = nodes_of(build())
    second = nodes_of(build(compute=Compute(device='cuda:0', omp_nthreads=8, batch_size=4)))
    for name, node in first.items():
        assert node.inputs.get_hashval() == second[name].inputs.get_hashval(), name


def test_other_weights_change_the_hashes_of_the_nodes_that_read_them(build, tmp_path):
    """Nipype then reruns what depends on these nodes, and nothing else."""
    for name in ('prediction', 'correction'):
        (tmp_path / f'{name}.safetensors').write_bytes(
            (SHIPPED / f'{name}.safetensors').read_bytes()
        )
    first, second = (
        nodes_of(build(registration=Registration(weights=folder))) for folder in (None, tmp_path)
    )
    changed = {
        type(node.interface).__name__
        for name, node in first.items()
        if node.inputs.get_hashval() != second[name].inputs.get_hashval()
    }
    assert changed == {'PredictMomentum', 'CorrectMomentum'}


def test_crash_files_are_written_to_the_log_of_the_participant(build, tmp_path):
    nodes = nodes_of(build())
    shared = {name for name in nodes if not name.startswith('single_subject')}
    assert all(nodes.pop(name).config is None for name in shared)
    assert len(shared) == 1
    for name, node in nodes.items():
        subject = '01' if name.startswith('single_subject_01') else '02'
        folder = tmp_path / 'out' / f'sub-{subject}' / 'log' / 'run1'
        assert node.config == {'execution': {'crashdump_dir': str(folder)}}


def test_the_next_run_has_the_same_hashes(build):
    first, second = (nodes_of(build(run_id=run_id)) for run_id in ('run1', 'run2'))
    for name, node in first.items():
        assert node.inputs.get_hashval() == second[name].inputs.get_hashval(), name


def test_images_whose_derivatives_have_the_same_names_are_refused(build, bids_dir):
    anat = bids_dir / 'sub-01' / 'anat'
    images = [anat / 'sub-01_T1w.nii.gz', anat / 'sub-01_T1w.nii']
    with pytest.raises(InputError, match='rename or remove'):
        build(subjects={'01': images})


def test_the_methods_text_is_that_of_one_image_and_its_citations_exist(build, bids_dir):
    everyone = build().visit_desc()
    alone = build(subjects={'01': [bids_dir / 'sub-01/anat/sub-01_T1w.nii.gz']}).visit_desc()
    assert everyone == alone
    assert deepreg_wf.__version__ in everyone
    bibliography = Path(deepreg_wf.__file__).parent / 'data' / 'boilerplate.bib'
    known = set(re.findall(r'^@\w+\{(\w+),', bibliography.read_text(), flags=re.MULTILINE))
    assert set(re.findall(r'@(\w+)', everyone)) <= known


@pytest.mark.parametrize('name', ['group', 'interfaces', 'reports', 'templates', 'workflows'])
def test_public_names_exist_and_are_those_of_the_stub(name):
    package = import_module(f'deepreg_wf.{name}')
    stub = ast.parse(Path(package.__file__).with_suffix('.pyi').read_text(encoding='utf-8'))
    (listed,) = (
        ast.literal_eval(line.value) for line in stub.body if isinstance(line, ast.Assign)
    )
    assert sorted(listed) == package.__all__
    assert set(listed) <= set(dir(package))
    for public in listed:
        assert getattr(package, public).__doc__
    with pytest.raises(AttributeError, match='unknown_name'):
        _ = package.unknown_name


def test_importing_the_packages_and_building_a_graph_imports_no_heavy_library(bids_dir):
    code = """
import sys
import deepreg_wf.interfaces, deepreg_wf.workflows
assert 'nipype' not in sys.modules
from deepreg_wf.workflows import init_deepreg_wf
from pathlib import Path
from deepreg_wf.templates import Template
bids_dir = Path(sys.argv[1])
init_deepreg_wf(
    subjects={'01': [bids_dir / 'sub-01/anat/sub-01_T1w.nii.gz']},
    bids_dir=bids_dir,
    output_dir=bids_dir / 'derivatives',
    templates=[Template(space='custom', t1w=bids_dir / 'dataset_description.json')],
    run_id='run1',
)
heavy = {'torch', 'ants', 'matplotlib.pyplot', 'templateflow', 'niworkflows.interfaces.bids'}
print(*sorted(heavy & set(sys.modules)))
"""
    call = subprocess.run(
        [sys.executable, '-c', code, bids_dir],
        capture_output=True,
        text=True,
        check=False,
    )
    assert call.returncode == 0, call.stderr
    assert call.stdout.strip() == ''
