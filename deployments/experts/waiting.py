"""How long OpenMP's threads look for work before they sleep, where a core has two users.

An engine and its expert hosts take turns on the same cores: one waits while the other
computes. GNU's OpenMP lets idle threads look on for about a millisecond, which the other
one loses. For 5,000 rounds, some tens of microseconds, they still find the next loop of a
layer; what sleeps on another core is awake 40 to 80 microseconds after it was called.

Measured on two cores by `tests/bench/experts.py`, one sequence, 12 layers, shared experts not
overlapped; each number is the median of a run of 3 to 5 rounds, in relation to an engine
with its own experts: 0.61 and 0.64 with 1,000 rounds, 0.70 and 0.75 with 5,000, in engine and
host; 0.63 and 0.69 with 30,000 in the engine and 1,000 in the host; 0.31 to 0.46 with 300,000,
although the engine's threads were put to sleep for as long as it waited.
"""

WAITING_ENVIRONMENT: dict[str, str] = {"GOMP_SPINCOUNT": "5000"}
"""Read when the library is loaded: before torch is imported."""
