from store_home import home, study

__all__ = ["home", "study"]
