from evaluated_home import study

__all__ = ["study"]
