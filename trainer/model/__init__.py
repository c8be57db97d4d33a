"""The one place that builds the model of a plan (base, quantization, adapter), for a run and for a trace.

Workers, results and the estimator's tracer call it; it imports only specs and the training stack.
"""
