"""Orders as a director gives them."""

import numpy as np

from experts.transport.control import Order


def order_of(number: int, *moves: tuple[int, int, int]) -> Order:
    """Each move: layer, slot, expert."""
    return Order(number, np.array(moves, np.int32).reshape(-1, 3))
