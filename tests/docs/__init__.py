"""Every command and every block of Python in the pages, run short: not a part of pytest.

`python -m tests.docs [PAGE ...]`; a failure names page and line.
"""
