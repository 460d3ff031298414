"""quickstart placeholder"""


def quickstart(): ...
