"""What an ideal prefix cache could have served."""

from specreason_sgl.bench.prefix import PrefixShare, prefix_share


def test_prefix_share_counts_what_an_earlier_request_had():
    record = [([1, 2, 3], [4], 0), ([1, 2, 3, 4, 5], [], 3), ([1, 2, 9], [], 2)]
    assert prefix_share(record) == PrefixShare(prompt=11, seen=6, cached=5)
