"""The parts that every room of the engine uses: work queue, background tasks, options."""
