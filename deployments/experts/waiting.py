"""How long OpenMP's threads look for work before they sleep, where a core has two users.

An engine and its expert hosts take turns on the same cores: one waits while the other
computes. GNU's OpenMP lets idle threads look on for about a millisecond, which the other
one loses. For 1,000 rounds, some microseconds, they still find the next loop of a layer.
On two cores a model of a billion parameters then makes 1.3 times the tokens, with one
sequence (`tests/bench/experts.py`).
"""

WAITING_ENVIRONMENT: dict[str, str] = {"GOMP_SPINCOUNT": "1000"}
"""Read when the library is loaded: before torch is imported."""
