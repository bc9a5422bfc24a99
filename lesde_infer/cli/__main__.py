"""Run the command as ``python -m lesde_infer.cli``."""

import sys

from lesde_infer.cli.application import main

sys.exit(main())
