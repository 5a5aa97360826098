"""Captioned images in any layout, read without torch. The rest of the project imports from here."""

from formats.check import check_or_export
from formats.layouts import Collection, Record
from formats.opened import open_collection

__all__ = ["Collection", "Record", "check_or_export", "open_collection"]
