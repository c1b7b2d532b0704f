"""How a training went, in one picture: the curves of its stages, and brains it has not seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepreg_wf.utils.atomic import atomic_write

if TYPE_CHECKING:
    import numpy as np

PICTURE = 'training.png'


def draw_training(folder: Path) -> Path | None:
    """Draw the training that a folder holds.

    Parameters
    ----------
    folder : Path
        Output of `deepreg_wf.training.train`.

    Returns
    -------
    Path or None
        The picture; None where matplotlib, which training itself does without, is not there.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    from safetensors.numpy import load_file

    facts = json.loads((folder / 'training.json').read_text(encoding='utf-8'))
    panels = load_file(folder / 'panels.safetensors')
    histories = {
        f'{network}, {stage}': history
        for network, stages in facts['histories'].items()
        for stage, history in stages.items()
    }
    figure = Figure(figsize=(3 * max(len(histories), len(panels)), 7), layout='constrained')
    above, below = figure.subfigures(2, 1, height_ratios=(2, 3))
    _draw_curves(above, histories)
    _draw_panels(below, panels, facts['figures'])
    with atomic_write(folder / PICTURE) as temporary:
        figure.savefig(temporary, dpi=100)
    return folder / PICTURE


def _draw_curves(figure: Any, histories: Mapping[str, list[dict[str, float]]]) -> None:
    axes = figure.subplots(1, len(histories), squeeze=False)[0]
    for ax, (name, history) in zip(axes, histories.items(), strict=True):
        steps = [entry['step'] for entry in history]
        for kind, label in (('training', 'training'), ('validation', 'held back')):
            ax.plot(steps, [entry[kind] for entry in history], label=label)
        ax.set(title=name, xlabel='step', ylabel='missed')
        ax.legend()


def _draw_panels(
    figure: Any, panels: Mapping[str, np.ndarray], figures: Mapping[str, Mapping[str, float]]
) -> None:
    """A column for each image; the fixed one first, its edges drawn over the others."""
    fixed = panels['fixed']
    order = ['fixed', *(name for name in figures if name in panels)]
    axes = figure.subplots(len(fixed), len(order), squeeze=False)
    for number in range(len(fixed)):
        for ax, name in zip(axes[number], order, strict=True):
            ax.axis('off')
            ax.imshow(panels[name][number].T, origin='lower', cmap='gray', vmin=0, vmax=1)
            ax.contour(fixed[number].T, levels=[0.35, 0.75], colors='tab:red', linewidths=0.5)
            if number == 0:
                ax.set_title(name)
