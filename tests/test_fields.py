"""Fields: interpolation, composition and Jacobians on the voxel grid."""

from __future__ import annotations

import pytest
import torch

from deepreg_wf.lddmm import fields

SHAPE = (12, 10, 14)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def constant(*vector: float) -> torch.Tensor:
    column = torch.tensor(vector, dtype=torch.float64).view(3, 1, 1, 1)
    return column.expand(3, *SHAPE).clone()


def linear(matrix: torch.Tensor) -> torch.Tensor:
    """Return the displacement of ``x -> matrix x`` about the middle of the grid."""
    points = fields.identity(SHAPE, dtype=torch.float64, device='cpu')
    centred = points - (torch.tensor(SHAPE).view(3, 1, 1, 1) - 1) / 2
    return torch.einsum('ij,jxyz->ixyz', matrix, centred) - centred


def inner(field: torch.Tensor, margin: int = 3) -> torch.Tensor:
    return field[..., margin:-margin, margin:-margin, margin:-margin]


def test_a_displacement_by_whole_voxels_shifts_the_image() -> None:
    image = noise(2, *SHAPE)
    shifted = fields.interpolate(image, constant(1, 0, -2))
    torch.testing.assert_close(shifted[:, :-1, :, 2:], image[:, 1:, :, :-2])


def test_images_are_zero_outside_their_grid() -> None:
    assert not fields.interpolate(noise(1, *SHAPE), constant(0, 20, 0)).any()


def test_linear_functions_are_exact_between_voxels() -> None:
    points = fields.identity(SHAPE, dtype=torch.float64, device='cpu')
    moved = fields.interpolate(points, constant(0.3, -0.6, 1.2))
    torch.testing.assert_close(inner(moved), inner(points + constant(0.3, -0.6, 1.2)))


@pytest.mark.parametrize('threads', [1, 2, 3])
def test_threads_do_not_change_the_result(threads) -> None:
    image, displacement = noise(1, *SHAPE), noise(3, *SHAPE)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = fields.interpolate(image, displacement)
        torch.set_num_threads(threads)
        assert torch.equal(fields.interpolate(image, displacement), expected)
    finally:
        torch.set_num_threads(before)


def test_jacobian_of_a_linear_map_is_its_matrix() -> None:
    matrix = torch.eye(3, dtype=torch.float64) + 0.2 * noise(3, 3)
    field = fields.jacobian(linear(matrix))
    torch.testing.assert_close(field, matrix.view(3, 3, 1, 1, 1).expand(3, 3, *SHAPE))
    determinant = fields.jacobian_determinant(linear(matrix))
    torch.testing.assert_close(determinant, torch.linalg.det(matrix).expand(SHAPE))


def test_composition_of_linear_maps_is_their_product() -> None:
    a, b = (torch.eye(3, dtype=torch.float64) + s * noise(3, 3) for s in (0.03, -0.04))
    torch.testing.assert_close(inner(fields.compose(linear(a), linear(b))), inner(linear(a @ b)))
