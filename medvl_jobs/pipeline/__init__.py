"""pipeline: the graph of stages as data, a pure plan, and executors that carry it out."""
