"""Servers that answer at once."""

import pytest

from specreason_sgl import Endpoint, SpecReasonConfig, solve
from specreason_sgl.bench.servers import zero_servers
from specreason_sgl.reasoning.repair import Rewrite


def test_the_zero_latency_server_stops_with_the_block(chatml_folder):
    with zero_servers(chatml_folder, 1) as urls, Endpoint(urls[0]) as endpoint:
        config = SpecReasonConfig(repair=Rewrite(), token_budget=32)
        solve("q", draft=endpoint, base=endpoint, config=config)
    with pytest.raises(Exception, match="nobody answers"):
        Endpoint(urls[0])
