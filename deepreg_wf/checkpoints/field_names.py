"""Names of the metadata fields of a weights file, old and current."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED_FIELDS = {
    'patch': 'patch_size',
    'hints': 'gradient_channels',
    'detail': 'energy_spacing',
    'repeats': 'n_iterations',
    'scale': 'output_scale',
    'inflation': 'uncertainty_scale',
}
"""Old name and current name of each renamed field; files with the old names can still be read."""


def current_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the field names of earlier versions.

    Parameters
    ----------
    fields : mapping of str to object
        Specification of a network, as its file has it.

    Returns
    -------
    dict of str to object
        The same values under the current names.

    Examples
    --------
    >>> current_names({'patch': 15, 'stride': 0})
    {'patch_size': 15, 'stride': 0}
    """
    return {RENAMED_FIELDS.get(name, name): value for name, value in fields.items()}
