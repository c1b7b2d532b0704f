"""Run the command line as ``python -m deepreg_wf``."""

from __future__ import annotations

import sys

from deepreg_wf.cli.main import main

if __name__ == '__main__':
    sys.exit(main())
