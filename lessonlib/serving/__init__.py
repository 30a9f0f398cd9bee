"""Many adapters behind one base: the engine, its gate and watchdog, routing, monitoring, release."""
