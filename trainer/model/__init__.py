"""The one place that builds the model a plan describes (base, quantization, adapter), for a run and for a trace.

Workers, results and the estimator's tracer call it; it imports specs and the training stack alone.
"""
