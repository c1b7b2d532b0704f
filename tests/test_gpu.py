"""Computations on a GPU: on a pretended one everywhere, on a real one with ``-m gpu``."""

from __future__ import annotations

import runpy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest
import torch
from pretended_gpu import Placement, pretended_gpu
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from deepreg_wf.checkpoints.locate import SHIPPED
from deepreg_wf.interfaces import (
    CorrectMomentum,
    GeodesicShooting,
    PredictMomentum,
    RefineMomentum,
    TransformUncertainty,
)
from deepreg_wf.interfaces.prediction import _load_once
from deepreg_wf.quicksilver import draw_momenta
from deepreg_wf.quicksilver.prediction import apply_network

SCRIPT = Path(__file__).resolve().parents[1] / 'tools' / 'gpu_check.py'
TOOL = runpy.run_path(str(SCRIPT))
CHECKS, Scene = TOOL['CHECKS'], TOOL['Scene']
DEVICE = 'cuda:1'
"""Not the default device, so that a missing number is noticed."""

IN_INTERFACES = {'prediction', 'uncertainty'}
"""Checks whose computations the test of the interfaces runs, too."""

WITHOUT_OTHERS = f"""
import runpy, sys
from importlib.machinery import PathFinder

of_torch = {{'typing_extensions', 'sympy', 'mpmath', 'jinja2', 'networkx', 'fsspec', 'filelock'}}
allowed = {{'torch', 'torchgen', 'functorch', 'numpy', 'safetensors'}} | of_torch

class Block:
    def find_spec(self, name, path=None, target=None):
        if '.' not in name and name not in allowed:
            spec = PathFinder.find_spec(name)
            if spec is not None and 'site-packages' in str(spec.origin):
                raise ModuleNotFoundError(f'{{name}} is blocked', name=name)

sys.meta_path.insert(0, Block())
tool = runpy.run_path({str(SCRIPT)!r})
print(*tool['CHECKS'], sep='\\n')
print(tool['main'](['--device', 'cuda']))
"""


@pytest.fixture
def gpu() -> Iterator[Placement]:
    """A pretended GPU; a warning is an error, since a failing network goes on with a warning."""
    with warnings.catch_warnings(), pretended_gpu() as placement:
        warnings.simplefilter('error')
        yield placement
        assert placement.refused == []


@pytest.fixture
def interface_cache() -> Iterator[None]:
    """Forget the networks that interfaces keep, for they lie on the pretended GPU."""
    yield
    _load_once.cache_clear()


def mixed() -> dict[str, Any]:
    """Operations on a tensor on the GPU and one that is made on the CPU."""
    return {
        'a sum': lambda a: a + torch.ones(3, 3),
        'a product': lambda a: torch.ones(3, 3) @ a,
        'a concatenation': lambda a: torch.cat([a, torch.ones(3, 3)]),
        'a change in place': lambda a: a.mul_(torch.ones(3, 3)),
        'a number on the CPU': lambda a: a * torch.tensor(2.0),
        'a tensor that is copied': lambda a: a + torch.ones(3, 3).to(a.device),
        'indices on the CPU': lambda a: a.index_select(0, torch.tensor([1])),
        'a choice': lambda a: torch.where(torch.ones(3, 3) > 0, a, 0.0),
    }


@pytest.mark.parametrize('name', mixed())
def test_the_pretended_gpu_refuses_what_fake_tensors_refuse(name: str) -> None:
    def is_refused() -> bool:
        try:
            mixed()[name](torch.ones(3, 3, device='cuda'))
        except RuntimeError:
            return True
        return False

    with FakeTensorMode():
        expected = is_refused()
    with pretended_gpu():
        assert is_refused() == expected


def test_the_pretended_gpu_notices_what_never_left_the_cpu(gpu: Placement) -> None:
    field = torch.ones(3, device=DEVICE)
    for tensor in (field, field[1:], field.new_zeros(2), torch.zeros_like(field), field.double()):
        assert tensor.device == torch.device(DEVICE)
    assert field.cpu().device.type == 'cpu'
    with pytest.raises(TypeError, match='NumPy'):
        field.numpy()
    for other in (torch.from_numpy(np.ones(3)), torch.ones(3), torch.ones(3, device='cuda:0')):
        with pytest.raises(RuntimeError, match='several devices'):
            field + other
    assert len(gpu.refused) == 3
    gpu.refused.clear()


@pytest.mark.parametrize('name', sorted(CHECKS.keys() - IN_INTERFACES))
def test_no_tensor_is_made_on_the_wrong_device(name: str, gpu: Placement) -> None:
    """The operations on the pretended GPU are those on the CPU, so the results are equal."""
    results = CHECKS[name].run(Scene(DEVICE, small=True))
    with torch.utils._python_dispatch._disable_current_modes():
        reference = CHECKS[name].run(Scene('cpu', small=True))
    assert TOOL['largest_difference'](results, reference) < 1e-5


def test_a_network_without_memory_continues_on_the_cpu(gpu: Placement) -> None:
    scene = Scene(DEVICE, small=True)
    checkpoint = scene.checkpoint('prediction')
    volume = torch.stack(scene.images)
    expected = apply_network(checkpoint.network, volume, 14, batch_size=2)
    network = checkpoint.network
    forward, batches = network.forward, []

    def fail_on_gpu(patches: Tensor) -> Tensor:
        batches.append((patches.device.type, len(patches)))
        if patches.device.type == 'cuda':
            raise torch.OutOfMemoryError('CUDA out of memory')
        return forward(patches)

    network.forward = fail_on_gpu
    with pytest.warns(UserWarning, match='continuing') as caught:
        field = apply_network(network, volume, 14, batch_size=2)
    assert [str(warning.message).partition('; ')[2] for warning in caught] == [
        'continuing with 1 patches at once',
        'continuing on the CPU',
    ]
    # A patch and its mirror image go through the network together.
    assert batches[:3] == [('cuda', 4), ('cuda', 2), ('cpu', 2)]
    assert field.device == volume.device
    torch.testing.assert_close(field.cpu(), expected.cpu())


def test_random_numbers_on_the_gpu_are_drawn_apart(gpu: Placement) -> None:
    """Dropout on a GPU uses the generator of the GPU, whose state is given back afterwards."""
    scene = Scene(DEVICE, small=True)
    draws = draw_momenta(scene.checkpoint('probabilistic'), *scene.images, scene.metric, samples=1)
    assert [draw.device for draw in draws] == [torch.device(DEVICE)]
    torch.cuda.get_rng_state.assert_called_once_with(torch.device(DEVICE))
    torch.cuda.set_rng_state.assert_called_once()


@pytest.fixture(scope='module')
def files(make_brain, tmp_path_factory) -> dict[str, str]:
    """Two synthetic brains of 4 mm."""
    folder = tmp_path_factory.mktemp('images')
    for name, seed in (('moving', 0), ('fixed', 1)):
        make_brain((24, 28, 24), (4.0,) * 3, seed=seed).to_filename(folder / f'{name}.nii.gz')
    return {f'{name}_image': str(folder / f'{name}.nii.gz') for name in ('moving', 'fixed')}


def weights(name: str) -> dict[str, str]:
    return {'weights': str(SHIPPED / f'{name}.safetensors')}


def run_interfaces(folder: Path, files: dict[str, str], device: str) -> dict[str, np.ndarray]:
    """Run all interfaces that compute with tensors, and return the images that they write."""
    folder.mkdir()

    def run(interface: type, **inputs: Any) -> Any:
        return interface(device=device, **inputs).run(cwd=str(folder)).outputs

    start = run(PredictMomentum, **files, **weights('prediction'))
    fixed = run(
        CorrectMomentum, momentum=start.momentum, n_iterations=1, **files, **weights('correction')
    )
    match = run(
        RefineMomentum, momentum=fixed.momentum, metric=fixed.metric, iterations=[1], **files
    )
    run(GeodesicShooting, momentum=match.momentum, metric=match.metric)
    run(TransformUncertainty, samples=2, **files, **weights('probabilistic'))
    images = sorted(folder.glob('*.nii.gz'))
    return {path.name: nb.load(path).get_fdata(dtype=np.float32) for path in images}


def test_interfaces_compute_on_the_device_of_their_input(
    files: dict[str, str], tmp_path: Path, interface_cache: None
) -> None:
    expected = run_interfaces(tmp_path / 'cpu', files, 'cpu')
    with pretended_gpu() as placement:
        found = run_interfaces(tmp_path / 'gpu', files, DEVICE)
    assert placement.refused == []
    assert placement.used[torch.device(DEVICE)] > 1000
    assert found.keys() == expected.keys() >= {'warp.nii.gz', 'uncertainty.nii.gz'}
    for name, image in expected.items():
        scale = np.abs(image).max()
        np.testing.assert_allclose(found[name], image, atol=1e-5 * scale, err_msg=name)


def test_the_check_of_a_gpu_needs_torch_numpy_and_safetensors_alone() -> None:
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_OTHERS], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[: len(CHECKS)] == list(CHECKS)
    if not torch.cuda.is_available():
        assert (lines[-1], done.stderr.strip()) == ('2', 'There is no GPU that PyTorch can use.')


def test_the_check_of_a_gpu_tells_a_wrong_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second device gives another result than the first."""
    calls = []

    def drift(scene: Any) -> dict[str, Tensor]:
        calls.append(scene)
        return {'value': torch.tensor([1.0 + 1e-3 * len(calls)])}

    globals_ = TOOL['main'].__globals__
    for allowed, status in ((1.0, 0), (1e-6, 1)):
        monkeypatch.setitem(globals_, 'CHECKS', {'drifting': TOOL['Check'](drift, allowed)})
        assert TOOL['main'](['--device', 'cpu', '--small']) == status
        assert ('too much' in capsys.readouterr().out) == bool(status)
    assert TOOL['difference'](torch.tensor([float('nan')]), torch.ones(1)) == float('inf')


@pytest.fixture(scope='session')
def real_gpu() -> str:
    if not torch.cuda.is_available():
        pytest.skip('there is no GPU that PyTorch can use')
    return 'cuda'


@pytest.mark.gpu
@pytest.mark.parametrize('name', CHECKS)
def test_a_gpu_computes_what_the_cpu_computes(name: str, real_gpu: str) -> None:
    check = CHECKS[name]
    results = check.run(Scene(real_gpu, small=True))
    reference = check.run(Scene('cpu', small=True))
    assert TOOL['largest_difference'](results, reference) <= check.tolerance


@pytest.mark.gpu
def test_draws_on_a_gpu_depend_on_the_seed_alone(real_gpu: str) -> None:
    first, again = (CHECKS['uncertainty'].run(Scene(real_gpu, small=True)) for _ in range(2))
    assert TOOL['largest_difference'](again, first) < TOOL['TF32']


@pytest.mark.gpu
def test_interfaces_compute_on_a_gpu(
    files: dict[str, str], tmp_path: Path, real_gpu: str, interface_cache: None
) -> None:
    expected = run_interfaces(tmp_path / 'cpu', files, 'cpu')
    found = run_interfaces(tmp_path / 'gpu', files, real_gpu)
    for name, image in expected.items():
        if name != 'uncertainty.nii.gz':  # of other random numbers
            difference = np.linalg.norm(found[name] - image) / np.linalg.norm(image)
            assert difference < TOOL['TF32'], name
