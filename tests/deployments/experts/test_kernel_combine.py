"""Weighted sums of float32, against the definition number by number."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deployments.experts.kernel_combine import combined
from tests.reference.expert_kernel import fused_sum

# Few bits beside large and small ones: roundings and ties are the point.
NUMBERS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 2.0**-24, 1 + 2.0**-23, 1 / 3, -1 / 3, 16777215.0]),
    st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


@given(data=st.data(), num_tokens=st.integers(1, 3), top_k=st.integers(1, 4))
def test_sums_are_rounded_once_a_term(data: st.DataObject, num_tokens: int, top_k: int) -> None:
    hidden_size = data.draw(st.sampled_from([1, 3, 16, 17]))
    drawn = data.draw(st.lists(NUMBERS, min_size=5, max_size=5))
    results = np.resize(np.array(drawn, np.float32), (5, hidden_size))
    weights = np.array(
        data.draw(st.lists(NUMBERS, min_size=num_tokens * top_k, max_size=num_tokens * top_k)),
        np.float32,
    ).reshape(num_tokens, top_k)
    pairs = np.array(
        data.draw(
            st.lists(
                st.integers(0, 4), min_size=num_tokens * top_k, max_size=num_tokens * top_k
            )
        ),
        np.int32,
    ).reshape(num_tokens, top_k)
    expected = [
        [
            fused_sum(weights[token].tolist(), results[pairs[token], i].tolist())
            for i in range(hidden_size)
        ]
        for token in range(num_tokens)
    ]
    found = combined(results, weights, pairs)
    assert found.tolist() == np.array(expected, np.float32).tolist()


def test_a_product_is_not_rounded_before_it_is_added() -> None:
    a, b = np.float32(1 + 2**-13), np.float32(1 - 2**-13)
    results = np.array([[-1.0], [b]], np.float32)
    weights = np.array([[1.0, a]], np.float32)
    pairs = np.array([[0, 1]], np.int32)
    assert combined(results, weights, pairs).tolist() == [[-(2.0**-26)]]
    assert float(a * b) + -1.0 == 0.0
