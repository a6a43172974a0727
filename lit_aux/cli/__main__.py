"""``python -m lit_aux.cli``: the command line where no script is installed."""

import sys

from lit_aux.cli import main

sys.exit(main())
