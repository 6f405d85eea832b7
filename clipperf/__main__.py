"""``python -m clipperf`` is ``clipperf``."""

from clipperf.cli import main

main()
