"""How long OpenMP's threads look for work before they sleep, where a core has two users.

An engine and its expert hosts take turns on the same cores: one waits while the other
computes. GNU's OpenMP lets idle threads look on for about a millisecond, which the other
one loses. For 1,000 rounds, some microseconds, they still find the next loop of a layer.

Measured on two cores by `tests/bench/experts.py`, with one sequence and 12 layers: with two
hosts a step took 80 ms, and 63 ms where idle threads slept at once (one run each); with one
host 55 ms with 20,000 rounds, and 51 ms with 1,000.
"""

WAITING_ENVIRONMENT: dict[str, str] = {"GOMP_SPINCOUNT": "1000"}
"""Read when the library is loaded: before torch is imported."""
