"""Code that tries to evade the boundary checks, and valid code that resembles it.

The module `left` owns the table `lefts`, the module `right` owns `rights`. `test_hostile.py` checks each list.
"""
