"""Base models: found, fetched and checked; their parts found and their tensors read; writing with them."""

from .base import (
    HUB,
    MANIFEST,
    ModelFileError,
    cache_directory,
    device_and_dtype,
    find_base,
    load_base,
    sha256,
)
