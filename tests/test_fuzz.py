"""Damaged files of users: harmless, or refused in one sentence; see `fuzz`.

``DEEPREG_WF_FUZZ_CASES=5000 pytest tests/test_fuzz.py`` runs more cases of each kind of file, and
``DEEPREG_WF_FUZZ_SEED`` sets the first seed.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

import fuzz
import pytest

CASES = {'filters.json': 25, 'participants.tsv': 5, 'image.nii': 120, 'image.nii.gz': 80}
"""Number of cases of a kind of file in the suite; 40 of the others."""

FIRST_SEED = int(os.environ.get('DEEPREG_WF_FUZZ_SEED', '0'))
MEMORY_MIB = 300
"""Most memory that all cases of a kind may add to the process."""


@pytest.mark.parametrize('target', fuzz.TARGETS, ids=lambda target: target.name)
def test_damage_is_harmless_or_refused_in_one_sentence(
    target: fuzz.Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = int(os.environ.get('DEEPREG_WF_FUZZ_CASES', CASES.get(target.name, 40)))
    folder = tmp_path / 'input'
    folder.mkdir()
    monkeypatch.setattr(fuzz.make_weights, 'folder', tmp_path, raising=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seeds = range(FIRST_SEED, FIRST_SEED + number)
    faults = [fuzz.find_fault(target, seed, folder) for seed in seeds]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert list(filter(None, faults)) == []
    assert (after - before) / 1024 < MEMORY_MIB
