"""Streamlit's own command line, told that ``pages/`` is not its old kind of pages folder.

Without this a first visit to any address but ``/`` shows the files of ``pages/`` as they lie there, without our navigation.
"""

from __future__ import annotations

from streamlit.runtime.pages_manager import PagesManager
from streamlit.web.cli import main

if __name__ == "__main__":
    PagesManager.uses_pages_directory = False
    main(prog_name="streamlit")
