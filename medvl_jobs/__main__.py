"""``python -m medvl_jobs`` is ``medvl``."""

import sys

from medvl_jobs.cli import main

sys.exit(main())
