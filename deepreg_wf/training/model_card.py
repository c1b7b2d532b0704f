"""The model card: what networks were made of, how, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CARD = """\
# Networks of deepreg_wf

Quicksilver networks that predict the initial momentum of an LDDMM geodesic between two brains
aligned by an affine (Yang, Kwitt, Styner, Niethammer, NeuroImage 2017).

- Made from: {source}
- Trained on {n_training} brains: {training}
- Validated on {n_validation} brains that nothing was trained on: {validation}
- Licence: {licence}

## Registration of the validation brains with the template, both ways

| | Correlation, mean | worst | Smallest Jacobian determinant |
| --- | --- | --- | --- |
{figures}

## Training

| Stage | Steps | Missed at first | Missed in the end, training | Held back |
| --- | --- | --- | --- | --- |
{histories}

What is missed is, in imitation, the share of the energy of the momentum; predicting zero misses 1.
End to end it is the energy of the matching in that of the images as they are.

Settings: {settings}
"""


def model_card(facts: Mapping[str, Any]) -> str:
    """Write the model card of a training as Markdown.

    Parameters
    ----------
    facts : mapping
        What `train` keeps of itself.

    Returns
    -------
    str
    """
    rows = [
        f'| {name} | {of["mean_correlation"]:.3f} | {of["worst_correlation"]:.3f} | '
        f'{of["min_jacobian"]:.2f} |'
        for name, of in facts['figures'].items()
    ]
    stages = [
        f'| {network}, {stage} | {history[-1]["step"]} | {history[0]["validation"]:.3f} | '
        f'{history[-1]["training"]:.3f} | {history[-1]["validation"]:.3f} |'
        for network, histories in facts['histories'].items()
        for stage, history in histories.items()
    ]
    return _CARD.format(
        source=facts['source'] or 'not stated',
        n_training=len(facts['training']),
        training=', '.join(facts['training']),
        n_validation=len(facts['validation']),
        validation=', '.join(facts['validation']),
        licence=facts['licence'] or 'not stated',
        figures='\n'.join(rows),
        histories='\n'.join(stages),
        settings=', '.join(f'{name} {value}' for name, value in facts['settings'].items()),
    )
