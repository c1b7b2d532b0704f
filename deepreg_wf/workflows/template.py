"""Node that prepares a template, shared by all runs in one work folder."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.pipeline import engine as pe

from deepreg_wf.interfaces.template import PrepareTemplate
from deepreg_wf.utils.locks import locked

if TYPE_CHECKING:
    from deepreg_wf.templates.template import Template


def prepare_template(
    template: Template, resolution: float, name: str = 'prepare_template'
) -> pe.Node:
    """Create the node that resamples the brain of a template onto its registration grid.

    Parameters
    ----------
    template : Template
        Template, with its own brain mask if it has one.
    resolution : float
        Voxel size of the registration grid in mm.
    name : str
        Beginning of the name of the node.

    Returns
    -------
    SharedNode
        Node with the outputs ``t1w_brain``, ``brain_mask`` and ``reference``.
    """
    prepare = PrepareTemplate(in_file=str(template.t1w), resolution=resolution)
    if template.mask is not None:
        prepare.inputs.in_mask = str(template.mask)
    # Runs in one work folder share the node only if all its inputs are the same.
    inputs = f'{template.t1w} {template.mask} {resolution}'
    digest = sha256(inputs.encode()).hexdigest()[:8]
    return SharedNode(prepare, name=f'{name}_{digest}', mem_gb=0.5)


class SharedNode(pe.Node):  # type: ignore[misc]  # Nipype is untyped
    """Node that several runs in one work folder share: one run computes, the others wait."""

    def run(self, updatehash: bool = False) -> Any:
        """Run the node, or read the results of the run that has computed it meanwhile.

        Parameters
        ----------
        updatehash : bool
            Update the stored hash without running, as in Nipype.

        Returns
        -------
        InterfaceResult
        """
        folder = Path(self.output_dir())
        with locked(folder.with_name(f'.{folder.name}.lock')):
            return super().run(updatehash)
