"""Model card: training data, settings and measured accuracy of networks, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CARD = """\
# Networks of deepreg_wf

Quicksilver networks that predict the initial momentum of an LDDMM geodesic between two brains
aligned by an affine (Yang, Kwitt, Styner, Niethammer, NeuroImage 2017).

- Made from: {source}
- Trained on {n_training} brains: {training}
- Validated on {n_validation} other brains: {validation}
- Licence: {licence}

## Registration of the validation brains with the template, both ways

| | Correlation, mean | worst | Smallest Jacobian determinant |
| --- | --- | --- | --- |
{measures}

## Training

| Stage | Steps | First error, validation | Last error, training | Last error, validation |
| --- | --- | --- | --- | --- |
{histories}

The error of supervised training is the squared norm of the error of the momentum, relative to
that of the momentum itself; a momentum of zero has the error 1. The error of end-to-end training
is the energy of the matching, relative to that of the images without deformation.

Settings: {settings}
"""


def model_card(record: Mapping[str, Any]) -> str:
    """Write the model card of a training.

    Parameters
    ----------
    record : mapping of str to object
        Record of the training, the content of ``training.json``.

    Returns
    -------
    str
        Markdown.
    """
    rows = [
        f'| {name} | {measures["mean_correlation"]:.3f} | {measures["worst_correlation"]:.3f} | '
        f'{measures["min_jacobian"]:.2f} |'
        for name, measures in record['figures'].items()
    ]
    stages = [
        f'| {network}, {stage} | {history[-1]["step"]} | {history[0]["validation"]:.3f} | '
        f'{history[-1]["training"]:.3f} | {history[-1]["validation"]:.3f} |'
        for network, histories in record['histories'].items()
        for stage, history in histories.items()
    ]
    return _CARD.format(
        source=record['source'] or 'not stated',
        n_training=len(record['training']),
        training=', '.join(record['training']),
        n_validation=len(record['validation']),
        validation=', '.join(record['validation']),
        licence=record['licence'] or 'not stated',
        measures='\n'.join(rows),
        histories='\n'.join(stages),
        settings=', '.join(f'{name} {value}' for name, value in record['settings'].items()),
    )
