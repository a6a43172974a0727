"""One HTML page of what runs left: tables, pictures, and links into their folders."""

from typing import TYPE_CHECKING

from lit_aux.lazy import lazy

if TYPE_CHECKING:
    from lit_aux.pages.live import LivePage
    from lit_aux.pages.page import write_report

__all__ = ["LivePage", "write_report"]
__getattr__, __dir__ = lazy(__name__, {"LivePage": "live", "write_report": "page"})
