from tests.reasoning.conftest import pair

__all__ = ["pair"]
