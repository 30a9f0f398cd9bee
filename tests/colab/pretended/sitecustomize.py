"""Put on PYTHONPATH, this makes Python start as on Colab, where the kernel has imported google.colab."""

import google.colab  # noqa: F401
