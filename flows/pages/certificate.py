"""The certificate of a request to forget, as a page to hand on: what was done, with hashes, and nothing of anybody.

Not here: what is in it (`storage.withdrawals`).
"""

from __future__ import annotations

from pathlib import Path

from flows.pages.rendered import rendered
from storage.store import Store
from storage.withdrawals import PAGE, Certificate, key_of


def write_certificate_page(store: Store, certificate: Certificate) -> Path:
    """Write the page beside the certificate, and return its path."""
    page = rendered("certificate.html", certificate=certificate)
    key = key_of(certificate.forget, PAGE)
    store.put(key, page.encode())
    return store.path(key)
