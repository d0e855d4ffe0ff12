"""Servers that answer at once."""

import pytest

from specreason_sgl import Endpoint, SpecReasonConfig, solve
from specreason_sgl.bench.servers import Pace, paced_servers
from specreason_sgl.reasoning.repair import Rewrite


def test_a_paced_server_stops_with_the_block(chatml_folder):
    with paced_servers(chatml_folder, Pace()) as servers, Endpoint(servers.urls[0]) as endpoint:
        config = SpecReasonConfig(repair=Rewrite(), token_budget=32)
        solve("q", draft=endpoint, base=endpoint, config=config)
    with pytest.raises(Exception, match="nobody answers"):
        Endpoint(servers.urls[0])
