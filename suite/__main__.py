"""`python -m suite` is the command `finetuning`."""

import sys

from suite.runner import main

sys.exit(main())
