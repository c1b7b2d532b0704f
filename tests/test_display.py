"""The progress that a run prints, and the output of libraries."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

from processes import run_python

from deepreg_wf.engine.logs import redirect_output
from deepreg_wf.engine.progress import (
    PlainDisplay,
    RichDisplay,
    StatusCallback,
    StepLabels,
    format_duration,
)


def test_durations_are_formatted():
    assert [format_duration(s) for s in (0.04, 59.94, 59.96, 3599.6, 86400)] == [
        '0.0 s',
        '59.9 s',
        '1 min 00 s',
        '1 h 00 min',
        '24 h 00 min',
    ]


def make_node(fullname, folder):
    name = fullname.rsplit('.', 1)[-1]
    return SimpleNamespace(fullname=fullname, name=name, output_dir=lambda: str(folder))


def test_a_terminal_shows_the_steps(tmp_path):
    step_labels = StepLabels(
        {'one_wf': 'sub-01'}, {'a.one_wf.x': 'LDDMM matching', 'a.t': 'template'}
    )
    stream = io.StringIO()
    with RichDisplay(stream, step_labels.totals()) as display:
        monitor = StatusCallback(display, step_labels)
        for name in ('a.one_wf.x', 'a.t', 'a.one_wf.silent'):
            monitor(make_node(name, tmp_path), 'start')
            monitor(make_node(name, tmp_path), 'end')
        monitor(make_node('a.one_wf.other', tmp_path), 'start')
        monitor(make_node('a.one_wf.other', tmp_path), 'exception')
        monitor(make_node('a.one_wf.other', tmp_path), 'end')
    lines = [line.rstrip() for line in stream.getvalue().splitlines() if line.strip()]
    assert lines == [
        '[sub-01] LDDMM matching … done in 0.0 s',
        '[sub-01] all 1 steps done in 0.0 s',
        '[all] template … done in 0.0 s',
        '[sub-01] other … failed after 0.0 s',
    ]
    assert monitor.steps_done == {'sub-01': 1, 'all': 1}


def test_the_start_of_long_steps_is_printed():
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.step_started('sub-01', 'LDDMM matching')
    display.step_started('sub-01', 'resampling')
    assert re.fullmatch(r'[\d-]{10} [\d:]{8} \[sub-01\] LDDMM matching …\n', stream.getvalue())


PRINT_FROM_LIBRARIES = """
import os, subprocess, sys
from pathlib import Path
from deepreg_wf.engine.logs import redirect_output

with redirect_output(Path(sys.argv[1])) as streams:
    print('from Python')
    os.write(2, b'from compiled code\\n')
    subprocess.run(['echo', 'from a child'], check=True)
    print('for the user …', file=streams.out)
    print('an error', file=streams.err)
print('afterwards')
"""


def test_the_output_of_libraries_goes_to_a_file(tmp_path):
    log = tmp_path / 'logs' / 'libraries.txt'
    done = run_python('-c', PRINT_FROM_LIBRARIES, log, PYTHONIOENCODING='ascii')
    assert done.stdout == 'for the user ?\nafterwards\n'
    assert done.stderr == 'an error\n'
    text = log.read_text()
    assert all(f'from {who}' in text for who in ('Python', 'compiled code', 'a child'))


def test_without_a_file_the_output_of_libraries_stays(capfd):
    with redirect_output(None) as streams:
        print('from Python')
        print('for the user', file=streams.out)
    assert capfd.readouterr().out == 'from Python\nfor the user\n'
