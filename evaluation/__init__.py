"""How is a model measured? Metrics, the networks that judge, the scenes that are asked for."""
