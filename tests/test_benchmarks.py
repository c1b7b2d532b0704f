"""The benchmarks run: ours alone, on a grid so coarse that it takes no time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / 'benchmarks/shooting.py'


def test_shooting_is_set_beside_the_bandwidth_of_the_machine() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), '--spacing', '8', '--threads', '1'],
        capture_output=True,
        text=True,
        check=True,
    )
    cells = {
        line.split('|')[1].strip(): [cell.strip() for cell in line.split('|')[2:-1]]
        for line in done.stdout.splitlines()
        if line.startswith('|')
    }
    seconds, floor = float(cells['shooting'][0]), float(cells['bandwidth floor'][0])
    assert 0 < floor < seconds
    assert float(cells['shooting'][2]) > 100  # MiB: PyTorch alone takes that
