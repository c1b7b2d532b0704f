"""Figure of a training: learning curves, and the registration of brains for validation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepreg_wf.utils.atomic import atomic_write

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import SubFigure

FIGURE_FILE = 'training.png'
"""Name of the figure in the folder of the training."""


def draw_training(folder: Path) -> Path | None:
    """Draw the training that a folder holds.

    Parameters
    ----------
    folder : Path
        Output folder of `deepreg_wf.training.train`.

    Returns
    -------
    Path or None
        The figure; None if matplotlib is not installed, which the training does not need.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    from safetensors.numpy import load_file

    record = json.loads((folder / 'training.json').read_text(encoding='utf-8'))
    panels = load_file(folder / 'panels.safetensors')
    histories = {
        f'{network}, {stage}': history
        for network, stages in record['histories'].items()
        for stage, history in stages.items()
    }
    figure = Figure(figsize=(3 * max(len(histories), len(panels)), 7), layout='constrained')
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(2, 3))
    _draw_curves(parts[0, 0], histories)
    _draw_panels(parts[1, 0], panels, list(record['figures']))
    path = folder / FIGURE_FILE
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100)
    return path


def _draw_curves(figure: SubFigure, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw the error in training and validation, a plot for each stage."""
    axes = figure.subplots(1, len(histories), squeeze=False)[0]
    for ax, (name, history) in zip(axes, histories.items(), strict=True):
        steps = [entry['step'] for entry in history]
        for kind in ('training', 'validation'):
            ax.plot(steps, [entry[kind] for entry in history], label=kind)
        ax.set(title=name, xlabel='step', ylabel='relative error')
        ax.legend()


def _draw_panels(
    figure: SubFigure, panels: Mapping[str, np.ndarray], networks: Sequence[str]
) -> None:
    """Draw a column of slices for each image, with the edges of the fixed image, the first one."""
    fixed = panels['fixed']
    columns = ['fixed', *(name for name in networks if name in panels)]
    axes = figure.subplots(len(fixed), len(columns), squeeze=False)
    for row in range(len(fixed)):
        for ax, name in zip(axes[row], columns, strict=True):
            ax.axis('off')
            ax.imshow(panels[name][row].T, origin='lower', cmap='gray', vmin=0, vmax=1)
            ax.contour(fixed[row].T, levels=[0.35, 0.75], colors='tab:red', linewidths=0.5)
            if row == 0:
                ax.set_title(name)
