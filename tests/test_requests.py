"""A workflow uses the whole `Registration` that it is given, or refuses what it cannot deliver."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nipype.interfaces.base import isdefined

from deepreg_wf.checkpoints.locate import SHIPPED, find_affine_network
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Registration
from deepreg_wf.workflows import (
    init_affine_wf,
    init_pair_wf,
    init_quicksilver_wf,
    init_register_template_wf,
    init_registration_wf,
)

NETWORKS = {'align': 'affine', 'predict': 'prediction', 'correct': 'correction'}
"""Weights file of each step that uses a network; `sample` draws from another one."""


def register_template(registration: Registration) -> Any:
    return init_register_template_wf(
        sloppy=True,
        omp_nthreads=1,
        templates=['MNI152NLin2009cAsym'],
        registration=registration,
    )


def pair(registration: Registration) -> Any:
    image = SHIPPED / 'README.md'  # any file: no step runs
    return init_pair_wf(moving=image, fixed=image, prefix='out_', registration=registration)


FACTORIES: dict[str, Callable[[Registration], Any]] = {
    'affine': lambda registration: init_affine_wf(registration=registration),
    'quicksilver': lambda registration: init_quicksilver_wf(registration=registration),
    'registration': lambda registration: init_registration_wf(registration=registration),
    'pair': pair,
    'register_template': register_template,
}


def weights_of(workflow: Any) -> dict[str, Path]:
    """Return the weights files of a workflow, by the name of the step."""
    nodes = map(workflow.get_node, workflow.list_node_names())
    found = {node.name: getattr(node.inputs, 'weights', None) for node in nodes}
    return {name: Path(path) for name, path in found.items() if path and isdefined(path)}


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of networks, as a path that is relative to the present folder."""
    shutil.copytree(SHIPPED, tmp_path / 'networks')
    monkeypatch.chdir(tmp_path)
    return Path('networks')


@pytest.mark.parametrize('name', FACTORIES)
def test_all_networks_come_from_the_folder_of_the_weights(name: str, networks: Path) -> None:
    found = weights_of(FACTORIES[name](Registration(weights=networks)))
    assert found
    assert found == {step: networks.absolute() / f'{NETWORKS[step]}.safetensors' for step in found}
    shipped = weights_of(FACTORIES[name](Registration()))
    assert shipped == {step: SHIPPED / f'{NETWORKS[step]}.safetensors' for step in found}


def test_a_folder_without_a_network_for_the_affine_leaves_that_of_the_package(
    networks: Path,
) -> None:
    (networks / 'affine.safetensors').unlink()
    assert find_affine_network(networks) == SHIPPED / 'affine.safetensors'
    (networks / 'affine.safetensors').write_bytes(b'no network')
    with pytest.raises(InputError, match='networks/affine.safetensors: not a deepreg_wf weights'):
        init_affine_wf(registration=Registration(weights=networks))
    classical = Registration(weights=networks, affine_method='classical')
    assert weights_of(init_affine_wf(registration=classical)) == {}


def test_a_network_that_is_missing_is_named(networks: Path) -> None:
    (networks / 'correction.safetensors').unlink()
    with pytest.raises(InputError, match='networks/correction.safetensors: no such weights file'):
        register_template(Registration(weights=networks))


@pytest.mark.parametrize('name', ['quicksilver', 'registration', 'pair'])
def test_an_uncertainty_is_delivered(name: str, networks: Path) -> None:
    workflow = FACTORIES[name](Registration(uncertainty=3, weights=networks))
    assert weights_of(workflow)['sample'] == networks.absolute() / 'probabilistic.safetensors'
    if name == 'pair':
        store = workflow.get_node('store_uncertainty')
        assert store.inputs.out_file == 'out_Uncertainty.nii.gz'
        edges = [data['connect'] for *_, data in workflow._graph.in_edges(store, data=True)]
        assert edges == [[('outputnode.uncertainty', 'in_file')]]
        assert FACTORIES[name](Registration()).get_node('store_uncertainty') is None


def test_an_uncertainty_is_refused_where_nothing_can_take_it() -> None:
    with pytest.raises(InputError, match=r'^uncertainty: sMRIPrep has no output for it; .*0'):
        register_template(Registration(uncertainty=3))
