from tests.engine.logs import logged

__all__ = ["logged"]
