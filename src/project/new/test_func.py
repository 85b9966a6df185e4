"""Tests without a server: `python3 test_func.py`, or `pytest`."""

import unittest

from func import run


class Run(unittest.TestCase):
    def test_greets_by_name(self):
        self.assertEqual(run(name="Ada"), {"greeting": "Hello, Ada!"})

    def test_greets_the_world_where_no_name_is_given(self):
        self.assertEqual(run(), {"greeting": "Hello, world!"})


if __name__ == "__main__":
    unittest.main()
