"""Base models: found, fetched and checked; their parts found and their tensors read; writing with them."""

from .base import HUB, device_and_dtype, find_base, load_base, load_tokenizer, read_weight, weights_gb
from .cache import MANIFEST, ModelFileError, cache_directory, sha256
from .pinned import DEFAULT, PINNED, Pinned, base_source
